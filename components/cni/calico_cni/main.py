"""`calico-cni-fallback --program calico|calico-ipam [-v|-t]`: what the C program becomes when no agent answers.

Reads a CNI call from the environment and stdin, does it here, prints the answer. The guard table (unknown workload
interface: drop) is put in place first if no `inet calico` table stands, so a new endpoint stays closed until an
agent programs its policy; an ADD without an agent therefore does not wait for policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

from calico_cni.logs import configure
from libcalico.workload.cni import errors
from libcalico.workload.cni.errors import CniError
from libcalico.workload.cni.request import CniAnswer, CniRequestData
from libcalico.workload.cni.result import render_json

TEST_TIMEOUT_S = 2.0


def answer(program: str, arguments: Sequence[str], environment: Mapping[str, str], stdin: bytes) -> CniAnswer:
    """What the program prints and how it ends."""
    if arguments == ["-v"]:
        from libcalico.workload.cni.services import VERSION

        return CniAnswer(0, f"{VERSION}\n".encode())
    if arguments == ["-t"] and program == "calico":
        return asyncio.run(_test_datastore(stdin))
    if arguments == ["-upgrade"]:
        return _refuse("-upgrade is for Kubernetes only: nothing was done")
    if arguments:
        return _refuse(f"failed to parse CLI flags: {' '.join(arguments)}: known are -v and -t")
    return asyncio.run(_call(CniRequestData(program, environment, stdin)))


def _refuse(text: str) -> CniAnswer:
    return CniAnswer(1, render_json(CniError(errors.FLAGS, text).to_object()))


async def _call(request: CniRequestData) -> CniAnswer:
    from calico_cni.services import open_services
    from libcalico.workload.cni import handle

    async with open_services(request.environment) as services:
        return await handle(request, services)


async def _test_datastore(stdin: bytes) -> CniAnswer:
    from calico_cni.services import open_services
    from libcalico.errors import CalicoError
    from libcalico.workload.cni.conf import read_conf
    from libcalico.workload.cni.context import check_ready
    from libcalico.workload.cni.request import parse_conf_object

    try:
        conf, _ = read_conf(parse_conf_object(stdin))
        async with open_services({}) as services, asyncio.timeout(TEST_TIMEOUT_S):
            await check_ready(await services.connect(conf), TEST_TIMEOUT_S)
    except (CalicoError, TimeoutError) as error:
        failure = CniError(errors.FLAGS, "data store connection failed", str(error))
        return CniAnswer(1, render_json(failure.to_object()))
    return CniAnswer(0)


def _program(argv: Sequence[str]) -> tuple[str, list[str]]:
    if len(argv) > 2 and argv[1] == "--program":
        return argv[2], list(argv[3:])
    return os.path.basename(argv[0]), list(argv[1:])


def main() -> int:
    """Entry point."""
    program, arguments = _program(sys.argv)
    command = os.environ.get("CNI_COMMAND", "")
    wants_stdin = arguments == ["-t"] or (not arguments and command not in {"", "VERSION"})
    stdin = sys.stdin.buffer.read() if wants_stdin else b""
    if wants_stdin:
        configure(stdin)
    result = answer(program, arguments, os.environ, stdin)
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.buffer.write(result.stderr)
        sys.stderr.buffer.flush()
        sys.stdout.buffer.write(result.stdout)
        sys.stdout.buffer.flush()
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
