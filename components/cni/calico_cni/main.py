"""`calico-cni-fallback --program calico|calico-ipam [--seconds N] [-v|-t]`: what the C program becomes with no agent.

Reads a CNI call from the environment and stdin, does it here, prints the answer. The guard table (unknown workload
interface: drop) is put in place first if no `inet calico` table stands, so a new endpoint stays closed until an
agent programs its policy; an ADD without an agent therefore does not wait for policy. `--seconds`: the call's limit,
when an agent that did not answer has had a part of its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

from calico_cni.logs import configure
from libcalico.cni import errors
from libcalico.cni.errors import CniError
from libcalico.cni.request import CniAnswer, CniRequestData
from libcalico.cni.result import render_json

TEST_TIMEOUT_S = 2.0


def answer(
    program: str, arguments: Sequence[str], environment: Mapping[str, str], stdin: bytes, limit_s: float = 0
) -> CniAnswer:
    """What the program prints and how it ends; `limit_s` 0 = the usual limit of a call."""
    if arguments == ["-v"]:
        from libcalico.cni.versions import PLUGIN

        return CniAnswer(0, f"{PLUGIN}\n".encode())
    if arguments == ["-t"] and program == "calico":
        return asyncio.run(_test_datastore(stdin, environment))
    if arguments == ["-upgrade"]:
        return _refuse("-upgrade is for Kubernetes only: nothing was done")
    if arguments:
        return _refuse(f"failed to parse CLI flags: {' '.join(arguments)}: known are -v and -t")
    return asyncio.run(_call(CniRequestData(program, environment, stdin), limit_s))


def _refuse(text: str) -> CniAnswer:
    return CniAnswer(1, render_json(CniError(errors.FLAGS, text).to_object()))


async def _call(request: CniRequestData, limit_s: float) -> CniAnswer:
    from calico_cni.host import open_host
    from libcalico.cni import handle
    from libcalico.cni.unfinished import Unfinished
    from libcalico.conventions import STATE_DIRECTORY

    kept = Unfinished(request.environment.get("CALICO_STATE_DIRECTORY") or STATE_DIRECTORY)
    async with open_host(request.environment) as host:
        result = await handle(request, host, limit_s, kept)
        if host.locks.is_busy:  # a step hangs in the kernel: it must not hold the caller up
            _print(result)
            os._exit(result.exit_code)
        return result


async def _test_datastore(stdin: bytes, environment: Mapping[str, str]) -> CniAnswer:
    from calico_cni.host import etcd_settings, open_host
    from libcalico.cni.conf import read_conf
    from libcalico.cni.request import parse_conf_object
    from libcalico.errors import CalicoError
    from libcalico.workload.host import EtcdMembers
    from libcalico.workload.ready import check_ready

    try:
        conf, _ = read_conf(parse_conf_object(stdin))
        etcd = EtcdMembers(conf.etcd, conf.etcd_problem)
        endpoints = etcd_settings(etcd, environment).endpoints
        async with open_host(environment) as host, asyncio.timeout(TEST_TIMEOUT_S):
            await check_ready(await host.connect(etcd))
    except TimeoutError:
        details = f"no answer in {TEST_TIMEOUT_S:g} s from {', '.join(endpoints) or 'etcd'}"
    except CalicoError as error:
        details = str(error)
    else:
        return CniAnswer(0)
    return CniAnswer(1, render_json(CniError(errors.FLAGS, "data store connection failed", details).to_object()))


def _parse(argv: Sequence[str]) -> tuple[str, float, list[str]]:
    """The program's name, the limit of a call in seconds, and the other arguments."""
    arguments = list(argv[1:])
    found = {"--program": os.path.basename(argv[0]), "--seconds": "0"}
    while len(arguments) > 1 and arguments[0] in found:
        found[arguments[0]] = arguments[1]
        del arguments[:2]
    seconds = found["--seconds"]
    return found["--program"], float(seconds) if seconds.isdecimal() else 0, arguments


def _print(result: CniAnswer) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.buffer.write(result.stderr)
        sys.stderr.buffer.flush()
        sys.stdout.buffer.write(result.stdout)
        sys.stdout.buffer.flush()


def main() -> int:
    """Entry point."""
    program, limit_s, arguments = _parse(sys.argv)
    command = os.environ.get("CNI_COMMAND", "")
    wants_stdin = arguments == ["-t"] or (not arguments and command not in {"", "VERSION"})
    stdin = sys.stdin.buffer.read() if wants_stdin else b""
    if wants_stdin:
        configure(stdin)
    result = answer(program, arguments, os.environ, stdin, limit_s)
    _print(result)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
