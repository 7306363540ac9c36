"""Plays the cases of `cni.jsonl` in a private network and mount namespace, with an etcd of its own.

`formats/cni.py` starts it (`unshare --net --mount`) and reads one JSON line a case from its stdout. It runs the
Python implementation of the plug-in in-process, the same function that the agent serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from calico_cni.main import answer
from libcalico.datastore.contract import Delete
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore
from libcalico.datastore.resources import AsyncClient
from libcalico.errors import CalicoError
from libcalico.kernel import netns, sysctl
from libcalico.kernel.errors import KernelError
from libcalico.model.codec import from_input

ASPECTS = ("exit", "stdout", "etcd", "host", "containers")
MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")
HOST_MAC = "ee:ee:ee:ee:ee:ee"
LINK_KEYS = ("ifname", "mtu", "operstate", "address", "flags", "num_tx_queues", "num_rx_queues")
ADDRESS_KEYS = ("family", "local", "prefixlen", "scope", "label")
ROUTE_KEYS = ("dst", "gateway", "dev", "scope", "protocol", "metric", "flags", "pref")
PRIVATE = ("/var/lib/calico", "/var/run/calico", "/run/netns", "/etc/calico")
SETTLE_S = 1.5
HOST_LOCAL = """#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "172.29.9.2/28", "gateway": "172.29.9.1"}],'
echo ' "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8"}], "dns": {}}'
"""


def sh(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True).stdout


def ip_json(namespace: str, *argv: str) -> list[dict[str, Any]]:
    prefix = ("ip", "-n", namespace) if namespace else ("ip",)
    text = subprocess.run([*prefix, "-j", *argv], capture_output=True, text=True, check=False).stdout
    found: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    return found


class World:
    """The private host: files, namespaces, etcd."""

    def __init__(self) -> None:
        sh("ip", "link", "set", "lo", "up")
        sysctl.write("net/ipv4/ip_forward", 1)
        for path in PRIVATE:
            Path(path).mkdir(parents=True, exist_ok=True)
            sh("mount", "-t", "tmpfs", "none", path)
        self.plugins = Path(tempfile.mkdtemp(prefix="t-cni-plugins-"))
        for name, text in (("calico-ipam", "#!/bin/sh\nexit 1\n"), ("host-local", HOST_LOCAL)):
            (self.plugins / name).write_text(text)
            (self.plugins / name).chmod(0o755)
        self.data = tempfile.mkdtemp(prefix="t-cni-etcd-")
        self.endpoint = "http://127.0.0.1:2379"
        self.etcd = subprocess.Popen(
            ["etcd", "--data-dir", self.data, "--listen-client-urls", self.endpoint, "--advertise-client-urls",
             self.endpoint, "--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "error"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        asyncio.run(self._wait_etcd())

    async def _wait_etcd(self) -> None:
        datastore = EtcdDatastore(EtcdConfig((self.endpoint,)))
        async with asyncio.timeout(30):
            while True:
                try:
                    await datastore.get(b"/calico/")
                    break
                except CalicoError:
                    await asyncio.sleep(0.1)
        await datastore.close()

    def close(self) -> None:
        self.etcd.kill()
        self.etcd.wait()
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.plugins, ignore_errors=True)

    def clean(self) -> None:
        for link in ip_json("", "link"):
            if link["ifname"] != "lo":
                subprocess.run(["ip", "link", "del", link["ifname"]], capture_output=True, check=False)
        for name in os.listdir("/run/netns"):
            sh("ip", "netns", "del", name, check=False)
        for path in ("/var/lib/calico", "/var/run/calico"):
            for entry in Path(path).iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        sh("nft", "flush", "ruleset")


class Names:
    """Random values get the names of the recording, in order of appearance."""

    def __init__(self, world: World) -> None:
        self.macs: dict[str, str] = {}
        self.world = world

    def text(self, value: str) -> str:
        if MAC.match(value) and value not in {HOST_MAC, "00:00:00:00:00:00"}:
            return self.macs.setdefault(value, f"<mac{len(self.macs) + 1}>")
        value = value.replace(self.world.endpoint, "<etcd>").replace(str(self.world.plugins), "<plugins>")
        value = re.sub(r"(?:/var)?/run/netns/([\w-]+)", r"<netns:\1>", value)
        return re.sub(r"Ifindex: \d+", "Ifindex: <n>", value)

    def apply(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.apply(item) for item in value]
        if isinstance(value, dict):
            return {key: self.apply(item) for key, item in value.items()}
        return value


class Player:
    """One case."""

    def __init__(self, world: World, case: dict[str, Any]) -> None:
        self.world = world
        self.case = case
        self.names = Names(world)

    def expand(self, value: Any) -> Any:
        text = json.dumps(value)
        text = text.replace("<etcd>", self.world.endpoint).replace("<plugins>", str(self.world.plugins))
        return json.loads(re.sub(r"<netns:([\w-]+)>", r"/run/netns/\1", text))

    def play(self) -> list[dict[str, Any]]:
        """The differences: one entry a step and aspect."""
        self.world.clean()
        asyncio.run(self._seed())
        given = self.case["given"]
        for path, text in given["files"].items():
            Path(path).write_text(text)
        for name in given["netns"]:
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
            with netns.entered(f"/run/netns/{name}"):
                sysctl.write("net/ipv4/ip_forward", 1)  # as on the recording's host
        if given["setup"]:
            sh("sh", "-ec", given["setup"])
        found: list[dict[str, Any]] = []
        for number, step in enumerate(self.case["steps"]):
            found += self._step(number, step)
        return found

    async def _seed(self) -> None:
        datastore = EtcdDatastore(EtcdConfig((self.world.endpoint,)))
        client = AsyncClient(datastore)
        await datastore.txn([], [Delete(b"/calico/", prefix=True)])
        await client.ensure_initialized()
        for resource in [*self.case["given"]["pools"], *self.case["given"]["nodes"]]:
            await client.create(from_input(resource))
        for key, value in (self.case["given"]["raw"] or {}).items():
            if value is None:
                await datastore.txn([], [Delete(key.encode())])
            else:
                text = value if isinstance(value, str) else json.dumps(value)
                await datastore.put(key.encode(), text.encode())
        await datastore.close()

    def _step(self, number: int, step: dict[str, Any]) -> list[dict[str, Any]]:
        stdin = step["stdin"]
        data = stdin.encode() if isinstance(stdin, str) else json.dumps(self.expand(stdin)).encode()
        result = answer(step["prog"], step["argv"], self.expand(step["env"]), data)
        ours: dict[str, Any] = {"exit": result.exit_code, "stdout": self.names.apply(_parse(result.stdout))}
        deadline = time.monotonic() + SETTLE_S
        while True:
            ours |= self._state()
            differences = [
                {"step": number, "aspect": aspect, "ours": mine, "theirs": theirs}
                for aspect in ASPECTS
                for mine, theirs in [(_comparable(aspect, ours[aspect]), _comparable(aspect, _expected(step, aspect)))]
                if mine != theirs
            ]
            kernel = [entry for entry in differences if entry["aspect"] in {"host", "containers"}]
            if not kernel or time.monotonic() > deadline:
                return differences
            time.sleep(0.1)

    # --- what stands

    def _state(self) -> dict[str, Any]:
        containers = {name: self._container(name) for name in self.case["given"]["netns"]}
        return {"etcd": self.names.apply(asyncio.run(self._keys())), "host": self._host(), "containers": containers}

    async def _keys(self) -> dict[str, Any]:
        datastore = EtcdDatastore(EtcdConfig((self.world.endpoint,)))
        found = {}
        for prefix in ("/calico/ipam/", "/calico/resources/v3/projectcalico.org/profiles/",
                       "/calico/resources/v3/projectcalico.org/workloadendpoints/"):  # fmt: skip
            for kv in (await datastore.range(prefix.encode())).kvs:
                found[kv.key.decode()] = json.loads(kv.value)
        await datastore.close()
        return found

    def _host(self) -> dict[str, Any]:
        def mine(item: dict[str, Any], key: str) -> bool:
            return str(item.get(key, "")).startswith("cali")

        links = [link for link in ip_json("", "-d", "link") if mine(link, "ifname")]
        patterns = {
            key
            for step in self.case["steps"]
            for settings in step["host"]["sysctl"].values()
            for key in settings
        }  # fmt: skip
        return {
            "routes": [_only(route, ROUTE_KEYS) for route in ip_json("", "route") if mine(route, "dev")],
            "routes6": _routes6("", "cali"),
            "links": [self.names.apply(_link(link, LINK_KEYS)) for link in links],
            "addrs": [_addresses(item) for item in ip_json("", "addr") if mine(item, "ifname")],
            "sysctl": {link["ifname"]: _settings(patterns, link["ifname"]) for link in links},
        }

    def _container(self, name: str) -> dict[str, Any]:
        links = [link for link in ip_json(name, "-d", "link") if link["ifname"] != "lo"]
        keys = tuple(key for key in LINK_KEYS if key != "flags")
        steps = self.case["steps"]
        plain = {key for step in steps for one in step["containers"].values() for key in one["sysctl"]}
        by_link = {
            key
            for step in steps
            for one in step["containers"].values()
            for settings in one["sysctl_if"].values()
            for key in settings
        }
        with netns.entered(f"/run/netns/{name}"):
            settings = _settings(plain, "")
            of_links = {link["ifname"]: _settings(by_link, link["ifname"]) for link in links}
        addresses = [_addresses(item) for item in ip_json(name, "addr") if item["ifname"] != "lo"]
        for item in addresses:
            for entry in item["addr_info"]:
                if entry["local"].startswith("fe80:"):
                    entry["local"] = "<link-local>"
        return {
            "links": [self.names.apply(_link(link, keys)) for link in links],
            "addrs": addresses,
            "routes": [_only(route, ROUTE_KEYS) for route in ip_json(name, "route")],
            "routes6": _routes6(name, ""),
            "neigh": [],
            "sysctl": settings,
            "sysctl_if": of_links,
        }


def _parse(stdout: bytes) -> Any:
    if not stdout:
        return None
    try:
        return json.loads(stdout)
    except ValueError:
        return {"text": stdout.decode()}


def _only(item: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: item[key] for key in keys if key in item}


def _link(item: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return _only(item, keys)


def _addresses(item: dict[str, Any]) -> dict[str, Any]:
    return {"ifname": item["ifname"], "addr_info": [_only(entry, ADDRESS_KEYS) for entry in item["addr_info"]]}


def _routes6(namespace: str, prefix: str) -> list[dict[str, Any]]:
    found = [_only(route, ROUTE_KEYS) for route in ip_json(namespace, "-6", "route")]
    return [
        route
        for route in found
        if route.get("dev", "").startswith(prefix) and route["dst"] != "fe80::/64" and route.get("dev") != "lo"
    ]


def _settings(patterns: set[str], interface: str) -> dict[str, str]:
    found = {}
    for pattern in patterns:
        key = pattern.replace(".", "/").replace("*", interface)
        with contextlib.suppress(KernelError):
            found[pattern] = sysctl.read(key)
    return found


# --- comparison ------------------------------------------------------------------------------------------------------


def _expected(step: dict[str, Any], aspect: str) -> Any:
    """What was recorded, with the two decisions that concern every case: no routes of our own IPAM in results and
    addresses as /32 and /128 from it (spec/cni.md 3.1, 7.2), and version 1.1.0 in lists of versions (1.4)."""
    value = step[aspect]
    if aspect == "containers" and step["host"]["links"]:
        return {name: {**one, "links": [_settled(link) for link in one["links"]]} for name, one in value.items()}
    if aspect != "stdout" or not isinstance(value, dict):
        return value
    text = (
        json.dumps(value).replace('"1.0.0"]', '"1.0.0", "1.1.0"]').replace('\\"1.0.0\\"]', '\\"1.0.0\\" \\"1.1.0\\"]')
    )
    expected: dict[str, Any] = json.loads(text)
    own = isinstance(step["stdin"], dict) and step["stdin"].get("ipam", {}).get("type") == "calico-ipam"
    if own and step["env"].get("CNI_COMMAND") == "ADD":
        expected.pop("routes", None)
        for family, length in (("ip4", 32), ("ip6", 128)):
            if family in expected:
                expected[family].pop("routes", None)
                expected[family]["ip"] = f"{expected[family]['ip'].partition('/')[0]}/{length}"
        for entry in expected.get("ips", ()):
            address = entry["address"].partition("/")[0]
            entry["address"] = f"{address}/{128 if ':' in address else 32}"
    return expected


def _settled(link: dict[str, Any]) -> dict[str, Any]:
    """A wired container's link as it will stand: the kernel may need a second to say UP, and a record may be sooner."""
    return {**link, "operstate": "UP"}


def _comparable(aspect: str, value: Any) -> Any:
    if aspect == "etcd":
        return {key: _stored(key, item) for key, item in value.items() if key != "/calico/ipam/v2/config"}
    if aspect in {"host", "containers"}:
        return json.loads(json.dumps(value, sort_keys=True), object_hook=_sorted_lists)
    return value


def _sorted_lists(item: dict[str, Any]) -> dict[str, Any]:
    """Link-local addresses do not count: the kernel adds them when duplicate detection is over, or not yet."""
    if "addr_info" in item:
        lasting = [one for one in item["addr_info"] if not one["local"].startswith(("fe80:", "<link-local>"))]
        item = {**item, "addr_info": lasting}
    return {
        key: sorted(value, key=lambda entry: json.dumps(entry, sort_keys=True)) if isinstance(value, list) else value
        for key, value in item.items()
    }


def _stored(key: str, value: Any) -> Any:
    if "/assignment/" in key:
        indexes = [index for index in value["allocations"] if index is not None]
        held = {
            str(ordinal): [value["attributes"][index]["handle_id"], _node_of(value["attributes"][index])]
            for ordinal, index in enumerate(value["allocations"])
            if index is not None
        }
        return {
            "cidr": value["cidr"],
            "affinity": value.get("affinity"),
            "held": held,
            "unallocated": value["unallocated"],
            "indexes": len(set(indexes)),
        }
    if "/handle/" in key:
        return value["block"]
    if "/ipam/" in key:
        return value.get("state")
    text = json.dumps(value)
    text = re.sub(r'"uid": "[^"]*"', '"uid": "<uid>"', text)
    return json.loads(re.sub(r'"creationTimestamp": "[^"]*"', '"creationTimestamp": "<time>"', text))


def _node_of(attribute: dict[str, Any]) -> Any:
    return (attribute.get("secondary") or {}).get("node")


def main() -> int:
    """Play the cases of the file named first whose names contain the second argument."""
    path, only = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    world = World()
    try:
        for line in itertools.filterfalse(str.isspace, Path(path).read_text().splitlines()):
            case = json.loads(line)
            if only not in case["name"]:
                continue
            try:
                outcome = {"name": case["name"], "differences": Player(world, case).play()}
            except Exception:
                outcome = {"name": case["name"], "crash": traceback.format_exc()}
            print(json.dumps(outcome), flush=True)
    finally:
        world.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
