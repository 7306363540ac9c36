"""A real agent in a namespace with a real etcd: what it does to the kernel, and what it does when others do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from calico_felix.daemon import RESTART_CODE
from calico_felix.dataplane.loop import ALIVE_S
from libcalico.datastore.contract import Delete, Put
from libcalico.model.resources import ClusterInformation
from tests import node_door
from tests.netns.agent import OBJECTS, WAIT_S, Agent, play, programmed
from tests.netns.cni_host import NODE, sh
from tests.scale.bench_agent import endpoint
from tests.scale.bench_cni import start_agent

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

SOON_S = 40.0
RESTS_S, WATCHED_S = 1.0, 5.0
"""An agent that has done nothing for the first is watched for the second. Who fights acts every second."""
STRANGER = "table inet calico { chain stranger { }; }"


def test_settings_of_an_interface_are_made_and_made_again(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        host = agent.host
        host.ip("link", "add", "calione", "type", "veth", "peer", "name", "peer")
        host.ip("link", "set", "calione", "up")
        agent.start()
        await agent.wait("start", programmed)
        areas = ("ipv4/conf/calione/proxy_arp", "ipv4/conf/calione/route_localnet", "ipv6/conf/calione/proxy_ndp")
        files = [f"/proc/sys/net/{area}" for area in areas]

        def settings() -> list[str]:
            return sh("ip", "netns", "exec", host.name, "cat", *files).split()

        async with asyncio.timeout(WAIT_S):
            while settings() != ["1", "1", "1"]:
                await asyncio.sleep(0.02)
            for file in files:
                sh("ip", "netns", "exec", host.name, "sh", "-c", f"echo 0 > {file}")
            assert "read and written again" in await node_door.ask(host.socket, "resync")
            while settings() != ["1", "1", "1"]:
                await asyncio.sleep(0.02)

    play(tmp_path, scenario)


def test_what_others_do_to_the_table_is_undone(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.start()
        await agent.wait("start", programmed)
        good = agent.table()
        assert "10.99.1.1" in good and "cali" in good
        lines = good.splitlines()
        chain = next(line.split()[1] for line in lines if "chain tw-" in line)
        members = next(line.split()[1] for line in lines if "set ip4-s-" in line)
        harms = (
            "flush ruleset",
            "delete table inet calico",
            f"flush chain inet calico {chain}",
            "flush map inet calico to-workload",
            f"delete element inet calico {members} {{ 10.99.1.1 }}",
            "insert rule inet calico forward-ingress accept",
            "add chain inet calico stranger",
            "add table inet calico { flags dormant; }",
            f"add element inet calico {members} {{ 10.99.7.7 }}; delete element inet calico {members} {{ 10.99.1.1 }}",
            verdict_replaced(),
            "",
            policy_changed(good),
        )
        for number, known in enumerate(harms, 1):
            harm = known or rule_replaced(agent)  # a rule has another number after each repair
            agent.nft(harm)
            await agent.wait(harm, lambda status, number=number: status["repairs"] == number)  # type: ignore[misc]
            async with asyncio.timeout(WAIT_S):
                while agent.table() != good:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)
            assert (await agent.status())["repairs"] == number, f"{harm}: one transaction is one repair"

    play(tmp_path, scenario)


def verdict_replaced() -> str:
    """The workload's verdict becomes accept; the map has as many elements as before."""
    name = OBJECTS[0][1]["spec"]["interfaceName"]
    place = "element inet calico to-workload"
    return f'delete {place} {{ "{name}" }}; add {place} {{ "{name}" : accept }}'


def rule_replaced(agent: Agent) -> str:
    """A rule without a comment becomes accept; the chain has as many rules as before."""
    chain, listed = "", agent.nft("-a", "list", "table", "inet", "calico")
    for line in listed.splitlines():
        words = line.split()
        if words[:1] == ["chain"]:
            chain = words[1]
        elif chain and "# handle" in line and "comment" not in line and words[0] not in ("type", "}"):
            return f"replace rule inet calico {chain} handle {words[-1]} accept"
    raise AssertionError("every rule has a comment")


def policy_changed(table: str) -> str:
    """A base chain that lets through what it does not know drops it, or the other way round."""
    found = re.search(r"chain (\S+) {\s+type \S+ hook \S+ priority [^;]+; policy (\w+);", table)
    assert found is not None
    return f"add chain inet calico {found[1]} {{ policy {'drop' if found[2] == 'accept' else 'accept'}; }}"


def test_tables_of_others_are_none_of_our_business(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.start()
        await agent.wait("start", programmed)
        for family in ("ip", "inet"):
            agent.nft(f"add table {family} theirs; add chain {family} theirs c; add rule {family} theirs c accept")
        agent.nft("add table ip calico; add chain ip calico c")
        await asyncio.sleep(0.5)
        status = await agent.status()
        assert (status["repairs"], status["failures"]) == (0, 0)
        assert "theirs" in agent.nft("list", "ruleset")

    play(tmp_path, scenario)


def test_what_the_agent_itself_does_to_the_table_is_no_repair(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.start()
        await agent.wait("start", programmed)
        for number in range(60):
            key, value = endpoint("node-2", f"n{number}", f"10.99.2.{number}", {"app": "two"})
            revision = (await agent.host.store.txn((), (Put(key.encode(), json.dumps(value).encode()),))).revision
            await agent.wait("commit", lambda status, at=revision: status["programmed_revision"] >= at)  # type: ignore[misc]
        await node_door.ask(agent.host.socket, "resync")
        await asyncio.sleep(0.5)
        status = await agent.status()
        assert status["applies"] >= 60
        assert (status["repairs"], status["failures"]) == (0, 0)
        assert "10.99.2.59" in agent.table()

    play(tmp_path, scenario)


def test_who_fights_with_the_agent_does_not_keep_it_busy(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.start()
        await agent.wait("start", programmed)
        good = agent.table()
        loop = "for i in $(seq 300); do nft add chain inet calico stranger 2>/dev/null; done"
        started = time.monotonic()
        await asyncio.to_thread(sh, "ip", "netns", "exec", agent.host.name, "sh", "-c", loop)
        taken_s = time.monotonic() - started
        async with asyncio.timeout(WAIT_S):
            while agent.table() != good:
                await asyncio.sleep(0.05)
        assert 1 <= (await agent.status())["repairs"] <= taken_s / 0.1 + 2

    play(tmp_path, scenario)


def test_nothing_happens_before_in_sync_and_a_second_apply_changes_nothing(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.nft(STRANGER)
        before, real = agent.table(), agent.host.endpoint
        agent.host.endpoint = real.replace("2379", "2399")
        agent.start()
        await asyncio.sleep(2)
        assert agent.table() == before
        agent.kill()
        agent.host.endpoint = real
        agent.start()
        await agent.wait("start", programmed)
        good = agent.table()
        assert "stranger" not in good
        for number in range(3):
            agent.kill()
            assert agent.table() == good, f"round {number}: a killed agent leaves its rules"
            agent.start()
            await agent.wait("restart", programmed)
            assert agent.table() == good, f"round {number}: the restarted agent programs the same"

    play(tmp_path, scenario)


def test_a_locked_datastore_ends_the_agent_and_leaves_its_rules(tmp_path: Path) -> None:
    """While it is locked (somebody migrates it) nothing is programmed from what it holds."""

    async def scenario(agent: Agent) -> None:
        agent.start()
        await agent.wait("start", programmed)
        assert agent.process is not None
        good = agent.table()
        cluster = await agent.host.client.get(ClusterInformation, "default")
        spec = msgspec.structs.replace(cluster.spec, datastore_ready=False)
        await agent.host.client.update(msgspec.structs.replace(cluster, spec=spec))
        await agent.host.store.txn((), (Delete(OBJECTS[2][0].encode()),))
        assert await asyncio.to_thread(agent.process.wait, WAIT_S) == RESTART_CODE
        assert agent.table() == good
        agent.start()
        await asyncio.sleep(2)
        assert agent.process.poll() is None
        assert agent.table() == good
        cluster = await agent.host.client.get(ClusterInformation, "default")
        spec = msgspec.structs.replace(cluster.spec, datastore_ready=True)
        await agent.host.client.update(msgspec.structs.replace(cluster, spec=spec))
        await agent.wait("unlock", programmed)
        assert "10.99.1.1" not in agent.table()

    play(tmp_path, scenario)


def test_settings_that_cannot_be_used_change_nothing_and_a_start_waits_for_better_ones(tmp_path: Path) -> None:
    """Bad values of parameters that decide over the policing itself, and values that are no settings at all."""
    path = b"/calico/resources/v3/projectcalico.org/felixconfigurations/default"
    spec = {"interfacePrefix": "cali"}
    document = {"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": {"name": "default"}}

    async def scenario(agent: Agent) -> None:
        async def store(value: bytes) -> int:
            return (await agent.host.store.txn((), (Put(path, value),))).revision

        await store(msgspec.json.encode({**document, "spec": spec}))
        agent.start()
        await agent.wait("start", programmed)
        good = agent.table()
        for harm in ({"interfacePrefix": "no blanks"}, {"reportingInterval": "banana"}, [1]):
            revision = await store(msgspec.json.encode({**document, "spec": harm}))
            await agent.wait(str(harm), lambda status, at=revision: status["programmed_revision"] >= at)  # type: ignore[misc]
            assert agent.table() == good
        await store(b"{garbage")
        agent.kill()
        agent.start()
        await asyncio.sleep(2)
        assert agent.process is not None and agent.process.poll() is None, "it waits for settings that it can read"
        assert agent.table() == good
        await store(msgspec.json.encode({**document, "spec": spec}))
        await agent.wait("mended", programmed)

    play(tmp_path, scenario)


def test_a_route_that_somebody_flushes_is_back_at_once(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        netns = ("ip", "-n", agent.host.name)
        name = OBJECTS[0][1]["spec"]["interfaceName"]
        sh(*netns, "link", "add", name, "type", "veth", "peer", "name", "far")
        sh(*netns, "link", "set", name, "up")
        sh(*netns, "link", "set", "far", "up")
        agent.start()
        await agent.wait("start", programmed)

        async def routed() -> None:
            async with asyncio.timeout(WAIT_S):
                while f"10.99.0.1 dev {name}" not in sh(*netns, "route"):
                    await asyncio.sleep(0.02)

        await routed()
        sh(*netns, "route", "flush", "dev", name)
        await routed()
        sh(*netns, "route", "replace", "blackhole", "10.99.0.1/32", "metric", "1024")
        await routed()

    play(tmp_path, scenario)


def test_forwarding_that_somebody_switches_off_is_on_again(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.start()
        await agent.wait("start", programmed)
        setting = ("ip", "netns", "exec", agent.host.name, "sysctl")
        sh(*setting, "-w", "net.ipv4.ip_forward=0")
        async with asyncio.timeout(WAIT_S):
            while sh(*setting, "-n", "net.ipv4.ip_forward").strip() != "1":
                await asyncio.sleep(0.1)

    play(tmp_path, scenario)


ASK_HEALTH = """
import urllib.error, urllib.request
for path in ("liveness", "readiness"):
    try:
        answer = urllib.request.urlopen("http://localhost:9099/" + path)
    except urllib.error.HTTPError as error:
        answer = error
    print(path, answer.status)
print(answer.read().decode())
"""


def test_the_debug_commands_mark_a_profile_that_does_not_exist(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.start()
        await agent.wait("start", programmed)
        path = agent.host.socket
        profile = {"kind": "Profile", "metadata": {"name": "calico"}, "spec": {"egress": [{"action": "Allow"}]}}
        key = b"/calico/resources/v3/projectcalico.org/profiles/calico"
        assert "calico (missing)" in await node_door.ask(path, "show", "endpoints")
        await agent.host.store.txn((), (Put(key, msgspec.json.encode(profile)),))
        async with asyncio.timeout(WAIT_S):
            while "(missing)" in await node_door.ask(path, "show", "endpoints"):
                await asyncio.sleep(0.05)

    play(tmp_path, scenario)


def test_health_is_live_at_once_and_ready_when_the_kernel_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FELIX_HEALTHENABLED", "true")

    async def scenario(agent: Agent) -> None:
        def health() -> str:
            return sh("ip", "netns", "exec", agent.host.name, sys.executable, "-c", ASK_HEALTH, check=False)

        async def until(*words: str) -> None:
            async with asyncio.timeout(WAIT_S):
                text = ""
                while not all(word in text for word in ("COMPONENT", *words)):
                    await asyncio.sleep(0.1)
                    text = await asyncio.to_thread(health)

        real = agent.host.endpoint
        agent.host.endpoint = real.replace("2379", "2399")
        agent.start()
        await until("liveness 200", "readiness 503", "waiting for the datastore")
        agent.kill()
        agent.host.endpoint = real
        agent.start()
        await until("liveness 200", "readiness 200", "in sync")

    play(tmp_path, scenario)


def test_a_quiet_agent_rests(tmp_path: Path) -> None:
    """What the kernel tells of its own routes, of both families, is what it wanted: it does not fight with itself."""

    async def scenario(agent: Agent) -> None:
        netns = ("ip", "-n", agent.host.name)
        key, value = endpoint(NODE, "six", "10.99.0.6", {})
        value["spec"]["ipNetworks"] = ["10.99.0.6/32", "fd00:99::6/128"]
        await agent.host.store.txn((), (Put(key.encode(), msgspec.json.encode(value)),))
        name = value["spec"]["interfaceName"]
        sh(*netns, "link", "add", name, "type", "veth", "peer", "name", "far")
        sh(*netns, "link", "set", name, "up")
        sh(*netns, "link", "set", "far", "up")
        agent.start()
        async with asyncio.timeout(WAIT_S):
            while "fd00:99::6 dev" not in sh(*netns, "-6", "route"):
                await asyncio.sleep(0.05)
        before: dict[str, Any] = {}
        async with asyncio.timeout(WAIT_S):
            while (status := await agent.status()).get("applies") != before.get("applies", ""):
                before = status
                await asyncio.sleep(RESTS_S)
        started = time.monotonic()
        await asyncio.sleep(WATCHED_S)
        after = await agent.status()
        expected = 2 + int((time.monotonic() - started) / ALIVE_S)  # one to show that it lives, one with the strangers
        assert after["applies"] - before["applies"] <= expected
        assert after["failures"] == 0

    play(tmp_path, scenario)


def test_devices_that_go_down_and_up_have_their_routes_again(tmp_path: Path) -> None:
    """The kernel forgets routes and neighbours of a device that is down or lost its last address, and tells nobody."""

    async def scenario(agent: Agent) -> None:
        host = agent.host
        (inner,) = (a["local"] for link in host.ip("-4", "addr", "show", "dev", "up0") for a in link["addr_info"])
        gateway = next(route["gateway"] for route in host.ip("route") if route["dst"] == "default")
        objects = (
            resource("IPPool", "vxlan", {"cidr": "10.99.0.0/16", "vxlanMode": "CrossSubnet", "blockSize": 26}),
            node(NODE, f"{inner}/30", "10.99.0.0"),
            node("node-2", f"{gateway}/30", "10.99.1.0"),
            node("node-3", "9.9.9.9/24", "10.99.2.0"),
            block("10.99.1.0/26", "node-2"),
            block("10.99.2.0/26", "node-3"),
        )
        await host.store.txn((), tuple(Put(key.encode(), msgspec.json.encode(value)) for key, value in objects))
        name = OBJECTS[0][1]["spec"]["interfaceName"]
        host.ip("link", "add", name, "type", "veth", "peer", "name", "peer")
        host.ip("link", "set", name, "up")
        agent.start()

        def shown() -> set[tuple[str, str]]:
            wanted = {"10.99.0.1", "10.99.1.0/26", "10.99.2.0/26"}
            routes = {(route["dst"], route["dev"]) for route in host.ip("route") if route["dst"] in wanted}
            found = sh(
                "ip", "-n", host.name, "-j", "neigh", "show", "dev", "vxlan.calico", "nud", "permanent", check=False
            )
            return routes | {("neighbour", entry["dst"]) for entry in json.loads(found or "[]")}

        whole = {
            *(("10.99.0.1", name), ("10.99.1.0/26", "up0"), ("10.99.2.0/26", "vxlan.calico")),
            *(("neighbour", "10.99.1.0"), ("neighbour", "10.99.2.0")),
        }
        await until(lambda: shown() == whole)
        for device in (name, "vxlan.calico", "up0"):
            host.ip("link", "set", device, "down")
            if device != "vxlan.calico":  # which the agent itself sets up again, at once
                await until(lambda: shown() != whole)
            host.ip("link", "set", device, "up")
            if device == "up0":
                host.ip("route", "add", "default", "via", gateway)
            await until(lambda: shown() == whole)
        for device, address in ((name, "169.254.7.7/32"), ("vxlan.calico", "10.99.0.0/32"), ("up0", f"{inner}/30")):
            if device == name:  # as a DHCP client does it that got no answer
                host.ip("addr", "add", address, "dev", device)
            host.ip("addr", "del", address, "dev", device)
            if device == "up0":
                host.ip("addr", "add", address, "dev", device)
                host.ip("route", "add", "default", "via", gateway)
            await until(lambda: shown() == whole)

    play(tmp_path, scenario)


def test_the_mtu_of_the_way_out_counts_and_reaches_the_plugin(tmp_path: Path) -> None:
    """The node's address is on lo; packets leave by up0, whose MTU changes."""

    async def scenario(agent: Agent) -> None:
        host, file = agent.host, tmp_path / "mtu"
        objects = (
            resource("IPPool", "vxlan", {"cidr": "10.99.0.0/16", "vxlanMode": "Always", "blockSize": 26}),
            node(NODE, "10.77.0.1/32", "10.99.0.0"),
            node("node-3", "9.9.9.9/24", "10.99.2.0"),
        )
        await host.store.txn((), tuple(Put(key.encode(), msgspec.json.encode(value)) for key, value in objects))
        host.ip("addr", "add", "10.77.0.1/32", "dev", "lo")
        host.ip("link", "set", "up0", "mtu", "1400")
        agent.start()

        def device() -> int:
            shown = sh("ip", "-n", host.name, "-j", "link", "show", "dev", "vxlan.calico", check=False)
            return int(json.loads(shown or "[{}]")[0].get("mtu", 0))

        await until(lambda: device() == 1350)
        await until(lambda: file.exists() and file.read_text() == "1350\n")
        host.ip("link", "set", "up0", "mtu", "1300")
        await until(lambda: device() == 1250)
        await until(lambda: file.read_text() == "1250\n")

    play(tmp_path, scenario)


def test_the_neighbours_of_workloads_are_kept(tmp_path: Path) -> None:
    """The kernel drops no such entry to make room for others, and still follows a container that changes its MAC."""

    async def scenario(agent: Agent) -> None:
        host = agent.host
        key, value = endpoint(NODE, "six", "10.99.0.6", {})
        value["spec"]["ipNetworks"] = ["10.99.0.6/32", "fd00:99::6/128"]
        await host.store.txn((), (Put(key.encode(), msgspec.json.encode(value)),))
        name, box = value["spec"]["interfaceName"], host.box().rpartition("/")[2]
        for words in (
            f"-n {host.name} link add {name} type veth peer name eth0 netns {box}",
            f"-n {host.name} link set {name} up",
            f"-n {box} link set eth0 up", f"-n {box} addr add 10.99.0.6/32 dev eth0",
            f"-n {box} route add 169.254.0.0/16 dev eth0",
        ):  # fmt: skip
            sh("ip", *words.split())

        def kept() -> set[str]:
            shown = json.loads(sh("ip", "-n", host.name, "-j", "neigh", "show", "dev", name, check=False) or "[]")
            return {entry["dst"] for entry in shown if "extern_learn" in entry}

        def reached() -> bool:
            words = ["ip", "netns", "exec", host.name, "ping", "-c", "1", "-W", "1", "-I", "169.254.77.1", "10.99.0.6"]
            return subprocess.run(words, check=False, capture_output=True).returncode == 0

        host.ip("addr", "add", "169.254.77.1/32", "dev", "lo")
        host.ip("neigh", "add", "10.99.0.6", "lladdr", "02:00:00:00:00:01", "dev", name)
        agent.start()
        await until(lambda: kept() == {"10.99.0.6", "fd00:99::6"})
        host.ip("neigh", "del", "10.99.0.6", "dev", name)
        sh("ip", "-n", box, "link", "set", "eth0", "down")
        sh("ip", "-n", box, "link", "set", "eth0", "up")
        sh("ip", "-n", box, "route", "replace", "169.254.0.0/16", "dev", "eth0")
        await until(lambda: kept() == {"10.99.0.6", "fd00:99::6"})
        sh("ip", "-n", box, "link", "set", "eth0", "address", "02:00:00:00:00:66")
        await until(reached)
        assert kept() == {"10.99.0.6", "fd00:99::6"}
        value["spec"]["ipNetworks"] = ["fd00:99::6/128"]
        await host.store.txn((), (Put(key.encode(), msgspec.json.encode(value)),))
        await until(lambda: kept() == {"fd00:99::6"})

    play(tmp_path, scenario)


def test_a_kernel_without_ipv6_has_endpoints_that_are_up(tmp_path: Path) -> None:
    """There is no /proc/sys/net/ipv6 then, and nothing to set there."""
    without = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /proc/sys/net/ipv6 && exec "$@"', "sh")

    async def scenario(agent: Agent) -> None:
        host, name = agent.host, OBJECTS[0][1]["spec"]["interfaceName"]
        host.ip("link", "add", name, "type", "veth", "peer", "name", "peer")
        host.ip("link", "set", name, "up")
        agent.process = start_agent(host, True, without)
        await agent.wait("start", programmed)
        path = host.socket
        async with asyncio.timeout(SOON_S):
            while " up" not in await node_door.ask(path, "show", "endpoints"):
                await asyncio.sleep(0.05)
        assert (await node_door.ask(path, "pending")).strip() == "nothing"
        before = (await agent.status())["applies"]
        await asyncio.sleep(RESTS_S)
        assert (await agent.status())["applies"] - before < 5, "it does not try again and again"

    play(tmp_path, scenario)


async def until(condition: Callable[[], bool]) -> None:
    """Long before everything is read anew (90 s)."""
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.05)


def resource(kind: str, name: str, spec: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    path = f"/calico/resources/v3/projectcalico.org/{kind.lower()}s/{name}"
    return path, {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec}


def node(name: str, address: str, tunnel: str) -> tuple[str, dict[str, Any]]:
    return resource("Node", name, {"bgp": {"ipv4Address": address}, "ipv4VXLANTunnelAddr": tunnel})


def block(cidr: str, owner: str) -> tuple[str, dict[str, Any]]:
    return f"/calico/ipam/v2/assignment/ipv4/block/{cidr.replace('/', '-')}", {
        "cidr": cidr, "affinity": f"host:{owner}", "allocations": [None] * 64, "unallocated": list(range(64)),
        "attributes": [], "deleted": False,
    }  # fmt: skip
