"""Plays the cases of a CNI vector file, each on a private host of its own (`private_host`).

`formats/cni.py` starts it in a network and mount namespace and reads one JSON line a case from its stdout. It runs the
Python implementation of the plug-in in-process, the same function that the agent serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import calico_cni.host
import calico_cni.main
from libcalico.client.objects import AsyncClient
from libcalico.clock import SystemClock, rfc3339
from libcalico.cni import handler  # noqa: F401
from libcalico.datastore.contract import Delete
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.kernel import netns, sysctl
from libcalico.kernel.errors import KernelError
from libcalico.model.codec import from_input
from libcalico.model.keys import ResourceKey, key_path
from libcalico.model.resources import STRUCTS
from tests.compat.cni_judge import BlockNames, expectation, kernel_differences, step_differences, with_queues
from tests.compat.contract import CaseTimeout, Each, Shape, json_lines, limited, unknown_members
from tests.compat.private_host import ENDPOINT, Door, HiddenEtcd, enter_private_host, laid_files, reset_settings, sh

MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")
MAC_NAME = re.compile(r"<mac(\d+)>")
KNOWN_MACS = {"ee:ee:ee:ee:ee:ee", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"}
LINK_MEMBERS = {"ifname", "mtu", "operstate", "address", "num_tx_queues", "num_rx_queues"}
ADDRESS_MEMBERS = ("family", "local", "prefixlen", "scope", "label")
NEIGHBOUR_MEMBERS = ("dst", "dev", "lladdr", "state")
VARYING = ("expires", "cache", "metrics")
STEP_TIMEOUT_S, SETTLE_S = 90, 1.5
SIDE: Shape = dict.fromkeys(("routes", "routes6", "links", "addrs", "neigh", "sysctl", "sysctl_if"))
OURS: Shape = dict.fromkeys(("exit", "stdout", "stderr~", "etcd", "host", "containers"))
CASE: Shape = {
    "name": None, "note": None, "source": None, "ours": None, "gap": None, "decided": None,
    "given": dict.fromkeys(
        ("pools", "nodes", "reservations", "files", "raw", "setup", "netns", "programs", "sysctl")
    ),
    "steps": [{
        "before": None, "put": None, "prog": None, "argv": None, "env": None, "stdin": None, "exit": None,
        "stdout": None, "stderr_last": None, "stderr": None, "etcd": None, "host": SIDE, "containers": Each(SIDE),
        "stopped_after": None, "ours": OURS,
    }],
}  # fmt: skip
PROGRAMS = ("calico", "calico-ipam")
WRAPPER = '#!/bin/sh\nexec {python} -m calico_cni.main --program {name} "$@"\n'
HOST_LOCAL = """#!{python} -IS
import json, os, sys
conf = json.load(sys.stdin)
if os.environ.get("CNI_COMMAND") == "ADD":
    version, routes = conf.get("cniVersion") or "0.2.0", conf["ipam"].get("routes", [])
    address = {{"address": "172.29.9.2/28", "gateway": "172.29.9.1"}}
    if version < "0.3":
        ip4 = {{"ip": "172.29.9.2/28", "gateway": "172.29.9.1", "routes": routes}}
        print(json.dumps({{"cniVersion": version, "ip4": ip4, "dns": {{}}}}))
    else:
        ips = [address if version >= "1" else {{"version": "4", **address}}]
        print(json.dumps({{"cniVersion": version, "ips": ips, "routes": routes, "dns": {{}}}}))
"""


def ip_json(namespace: str, *argv: str) -> list[dict[str, Any]]:
    """What `ip -j` shows in a namespace, "" for the host."""
    prefix = ("ip", "-n", namespace) if namespace else ("ip",)
    text = sh(*prefix, "-j", *argv, check=False)
    found: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    return [entry for entry in found if entry]


class Names:
    """What differs from run to run, by the names of the recording: MACs in order of appearance."""

    def __init__(self, plugins: str, macs: Mapping[str, str] = {}) -> None:
        self.plugins = plugins
        self.macs = dict(macs)

    def copy(self) -> Names:
        """The same names, to try with."""
        return Names(self.plugins, self.macs)

    def expand(self, value: Any) -> Any:
        """An input: placeholders become what stands there in this run."""
        if isinstance(value, str):
            text = value.replace("<etcd>", ENDPOINT).replace("<etcd-host>", ENDPOINT.partition("//")[2])
            text = text.replace("<plugins>", self.plugins).replace("<uid>", str(uuid.uuid4()))
            text = re.sub("<now>|<time>", rfc3339(SystemClock().now()), text)
            text = re.sub(r"<netns:([^>]+)>", r"/run/netns/\1", text).replace("<link-local>", "fe80::1")
            return MAC_NAME.sub(lambda match: self._chosen(match[0], int(match[1])), text)
        return _mapped(self.expand, value)

    def _chosen(self, name: str, number: int) -> str:
        known = next((mac for mac, one in self.macs.items() if one == name), None)
        mac = known or f"02:aa:bb:cc:dd:{number:02x}"
        self.macs[mac] = name
        return mac

    def shown(self, value: Any) -> Any:
        """An output: with placeholders."""
        if isinstance(value, str):
            if MAC.match(value) and value not in KNOWN_MACS:
                return self.macs.setdefault(value, f"<mac{len(self.macs) + 1}>")
            text = re.sub(rf"{re.escape(ENDPOINT)}(?!\d)", "<etcd>", value)
            text = re.sub(rf"{re.escape(ENDPOINT.partition('//')[2])}(?!\d)", "<etcd-host>", text)
            text = text.replace(self.plugins, "<plugins>")
            text = re.sub(r"(?:/var)?/run/netns/([\w.-]+)", r"<netns:\1>", text)
            return re.sub(r"Ifindex: \d+", "Ifindex: <n>", text)
        return _mapped(self.shown, value)


def _mapped(function: Any, value: Any) -> Any:
    if isinstance(value, list):
        return [function(one) for one in value]
    if isinstance(value, dict):
        return {function(name): function(one) for name, one in value.items()}
    return value


class Player:
    """One case, on the private host that the process is."""

    def __init__(self, case: dict[str, Any], plugins: str) -> None:
        self.case = case
        self.given = case["given"]
        self.names = Names(plugins)
        self.blocks = BlockNames(self.given["pools"])
        wanted = [expectation(step) for step in case["steps"]]
        self._host_sides = [step["host"] for step in wanted] + [step["host"] for step in case["steps"]]
        self._sides = [one for step in (*wanted, *case["steps"]) for one in step["containers"].values() if one]

    def play(self) -> list[str]:
        """Every difference of every step."""
        found = unknown_members(self.case, CASE)
        with laid_files({path: self.names.expand(text) for path, text in (self.given["files"] or {}).items()}):
            self._prepare()
            return found + self._play_steps()

    def _play_steps(self) -> list[str]:
        found: list[str] = []
        processors = possible_processors()
        for number, recorded in enumerate(self.case["steps"]):
            step = with_queues(recorded, processors)
            place = f"step {number} {step['env'].get('CNI_COMMAND', step['argv'])}: "
            try:
                with limited(STEP_TIMEOUT_S):
                    found += [place + text for text in self._step(step)]
            except CaseTimeout:
                found.append(f"{place}did not end within {STEP_TIMEOUT_S} s")
            except Exception:
                found.append(f"{place}crashed: {traceback.format_exc()}")
        return found

    def _prepare(self) -> None:
        for name, text in {**self._standard_programs(), **(self.given.get("programs") or {})}.items():
            program = Path(self.names.plugins, name)
            program.write_text(self.names.expand(text))
            program.chmod(0o755)
        asyncio.run(self._seed())
        _write_settings(self.given["sysctl"])
        for name in self.given["netns"]:
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
            with netns.entered(f"/run/netns/{name}"):
                reset_settings()
                _write_settings(self.given["sysctl"])
        if self.given["setup"]:
            sh("sh", "-c", self.names.expand(self.given["setup"]))

    def _standard_programs(self) -> dict[str, str]:
        wrappers = {name: WRAPPER.format(python=sys.executable, name=name) for name in PROGRAMS}
        return {**wrappers, "host-local": HOST_LOCAL.format(python=sys.executable)}

    async def _seed(self) -> None:
        datastore = EtcdDatastore(EtcdConfig((ENDPOINT,)))
        client = AsyncClient(datastore)
        await datastore.txn([], [Delete(b"/calico/", prefix=True)])
        await client.ensure_initialized()
        given = self.given
        raw = dict(given["raw"] or {})
        for resource in [*given["pools"], *given["nodes"], *(given.get("reservations") or ())]:
            if resource["kind"] in STRUCTS:
                await client.create(from_input(resource))
            else:
                key = key_path(ResourceKey(resource["kind"], resource["metadata"]["name"]))
                raw = {key: resource, **raw}
        await self._put(datastore, raw)
        await datastore.close()

    async def _put(self, datastore: EtcdDatastore, items: Mapping[str, Any]) -> None:
        for key, value in items.items():
            if value is None:
                await datastore.txn([], [Delete(key.encode())])
            else:
                shown = self.names.expand(value)
                await datastore.put(key.encode(), (shown if isinstance(shown, str) else json.dumps(shown)).encode())

    async def _put_now(self, items: Mapping[str, Any]) -> None:
        datastore = EtcdDatastore(EtcdConfig((ENDPOINT,)))
        await self._put(datastore, items)
        await datastore.close()

    # --- a step

    def _step(self, step: dict[str, Any]) -> list[str]:
        if step["prog"] not in PROGRAMS:
            return [f"the program {step['prog']!r} is not known"]
        if step.get("put"):
            asyncio.run(self._put_now(step["put"]))
        if step.get("before"):
            sh("sh", "-c", self.names.expand(step["before"]), check=False)
        stdin = self.names.expand(step["stdin"])
        text = stdin if isinstance(stdin, str) else json.dumps(stdin)
        status, stdout, stderr = run_program(step["prog"], step["argv"], self.names.expand(step["env"]), text.encode())
        seen = {"exit": status, "stderr": self.names.shown(stderr), "text": stdout, "stdout": _parsed(stdout)}
        seen = self._settled(step, seen)
        interfaces = {one["env"].get("CNI_IFNAME", "") for one in self.case["steps"]}
        return step_differences(seen, step, interfaces)

    def _settled(self, step: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
        """What stands, as soon as the kernel shows what is expected, or when the time is over."""
        wanted = expectation(step)
        interfaces = {one["env"].get("CNI_IFNAME", "") for one in self.case["steps"]}
        deadline = time.monotonic() + SETTLE_S
        while True:
            names = self.names.copy()
            state = {**seen, "stdout": names.shown(seen["stdout"]), **self._state(names)}
            if not kernel_differences(self.blocks.rename(state), wanted, interfaces) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        self.names = names
        self.blocks.learn(state["etcd"], wanted["etcd"])
        return self.blocks.rename(state)

    def _state(self, names: Names) -> dict[str, Any]:
        etcd = names.shown(asyncio.run(self._keys()))
        host = names.shown(self._host())
        containers = {name: names.shown(self._container(name)) for name in self.given["netns"]}
        return {"etcd": etcd, "host": host, "containers": containers}

    async def _keys(self) -> dict[str, Any]:
        datastore = EtcdDatastore(EtcdConfig((ENDPOINT,)))
        found = {}
        for prefix in ("/calico/ipam/", "/calico/resources/v3/projectcalico.org/profiles/",
                       "/calico/resources/v3/projectcalico.org/workloadendpoints/"):  # fmt: skip
            for kv in (await datastore.range(prefix.encode())).kvs:
                found[kv.key.decode()] = _parsed(kv.value.decode())
        await datastore.close()
        return found

    def _host(self) -> dict[str, Any]:
        links = [link for link in ip_json("", "-d", "link") if link["ifname"].startswith("cali")]
        settings = {key for side in self._host_sides for of_link in side["sysctl"].values() for key in of_link}
        return {
            "routes": [_fixed(route) for route in ip_json("", "route") if _is_cali(route, "dev")],
            "routes6": [_fixed(route) for route in ip_json("", "-6", "route") if _is_cali(route, "dev")],
            "links": [self._link(link, "host") for link in links],
            "addrs": [_addresses(item) for item in ip_json("", "addr") if _is_cali(item, "ifname")],
            "sysctl": {link["ifname"]: _settings(settings, link["ifname"]) for link in links},
        }

    def _container(self, name: str) -> dict[str, Any] | None:
        if not os.path.exists(f"/run/netns/{name}"):
            return None
        links = [link for link in ip_json(name, "-d", "link") if link["ifname"] != "lo"]
        by_link = {key for side in self._sides for settings in side["sysctl_if"].values() for key in settings}
        with netns.entered(f"/run/netns/{name}"):
            plain = _settings({key for side in self._sides for key in side["sysctl"]}, "")
            of_links = {link["ifname"]: _settings(by_link, link["ifname"]) for link in links}
        return {
            "links": [self._link(link, "containers") for link in links],
            "addrs": [_addresses(item) for item in ip_json(name, "addr") if item["ifname"] != "lo"],
            "routes": [_fixed(route) for route in ip_json(name, "route")],
            "routes6": [_fixed(route) for route in ip_json(name, "-6", "route") if route.get("dev") != "lo"],
            "neigh": [_only(entry, NEIGHBOUR_MEMBERS) for entry in ip_json(name, "neigh")],
            "sysctl": plain,
            "sysctl_if": of_links,
        }

    def _link(self, link: dict[str, Any], side: str) -> dict[str, Any]:
        """The members that are recorded on this side of a link anywhere in the case."""
        sides = self._host_sides if side == "host" else self._sides
        recorded = {name for one in sides for item in one["links"] for name in item}
        return _only(link, tuple(LINK_MEMBERS | recorded | ({"flags"} if side == "host" else set())))


def run_program(program: str, argv: list[str], environment: Mapping[str, str], stdin: bytes) -> tuple[Any, str, str]:
    """Exit status and outputs of the plug-in, run in this process as if it were its own."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace") for _ in range(2))
    former = sys.stdin, sys.stdout, sys.stderr, sys.argv, dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(stdin)), out, err
    sys.argv = ["calico-cni-fallback", "--program", program, *argv]
    try:
        status: Any = calico_cni.main.main()
    except SystemExit as end:
        status = end.code
    finally:
        logging.basicConfig(handlers=[logging.NullHandler()], force=True)
        sys.stdin, sys.stdout, sys.stderr, sys.argv = former[:4]
        os.environ.clear()
        os.environ.update(former[4])
    for stream in (out, err):
        stream.flush()
    texts = [stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err)]
    return status, texts[0], texts[1]


def possible_processors() -> int:
    """As many queues as a new veth has."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").rpartition("-")[2]
    return int(last) + 1


def _parsed(text: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text}


def _write_settings(settings: Mapping[str, Any] | None) -> None:
    for name, value in (settings or {}).items():
        Path("/proc/sys", name.replace(".", "/")).write_text(str(value))


def _is_cali(item: dict[str, Any], member: str) -> bool:
    return str(item.get(member, "")).startswith("cali")


def _only(item: dict[str, Any], members: tuple[str, ...]) -> dict[str, Any]:
    return {name: item[name] for name in members if name in item}


def _fixed(route: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in route.items() if name not in VARYING}


def _addresses(item: dict[str, Any]) -> dict[str, Any]:
    return {"ifname": item["ifname"], "addr_info": [_only(entry, ADDRESS_MEMBERS) for entry in item["addr_info"]]}


def _settings(patterns: set[str], interface: str) -> dict[str, str]:
    found = {}
    for pattern in patterns:
        with contextlib.suppress(KernelError):
            found[pattern] = sysctl.read(pattern.replace(".", "/").replace("*", interface))
    return found


# --- cases in processes of their own ---------------------------------------------------------------------------------


def play_apart(case: dict[str, Any], etcd: HiddenEtcd) -> list[str]:
    """Play one case in a child, so that nothing that it changes, breaks or leaves behind outlives it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _play_and_exit(case, etcd.path, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        signal.alarm(STEP_TIMEOUT_S * (len(case["steps"]) + 1))
        try:
            text = pipe.read()
        except CaseTimeout:
            text = b""
        finally:
            signal.alarm(0)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _pid, status = os.waitpid(child, 0)
    return json.loads(text) if text else [f"the case's process ended with wait status {status}"]


def _play_and_exit(case: dict[str, Any], etcd: str, writer: int) -> None:
    try:
        os.setsid()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        enter_private_host()
        Door(etcd)
        with tempfile.TemporaryDirectory(prefix="t-cni-plugins-") as plugins:
            found = Player(case, plugins).play()
    except BaseException:
        found = [f"crashed: {traceback.format_exc()}"]
    with open(writer, "wb") as pipe:
        pipe.write(json.dumps(found).encode())
    os._exit(0)


def cases(path: Path, only: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(name, case, problem) of the cases whose name contains the text."""
    for place, case, problem in json_lines(path):
        name = str(case.get("name", place))
        if only in name:
            yield name, case, problem


def _expired(_number: int, _frame: Any) -> None:
    raise CaseTimeout


def main() -> int:
    """`cni_player FILE ONLY SHARE OF`: play those cases whose place leaves the rest SHARE when divided by OF."""
    path, only, share, shares = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    signal.signal(signal.SIGALRM, _expired)
    sh("ip", "link", "set", "lo", "up")
    etcd = HiddenEtcd()
    try:
        for number, (name, case, problem) in enumerate(cases(path, only)):
            if number % shares == share:
                found = [problem] if problem else play_apart(case, etcd)
                print(json.dumps({"place": number, "name": name, "differences": found}), flush=True)
    finally:
        etcd.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
