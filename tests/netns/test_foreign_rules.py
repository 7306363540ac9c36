"""Other programs' packet filters beside ours, on the real kernel: Docker's FORWARD, what a former Felix left."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from calico_felix.dataplane.foreign import ACCEPT_COMMENT
from libcalico.policy.nft.rules import NftOptions
from libcalico.testing.machine import DIE_WITH_US, need
from tests import node_door
from tests.netns.agent import WAIT_S, Agent, play, programmed
from tests.netns.two_containers import Box

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

LOOK = """
import asyncio, sys
from calico_felix.dataplane.foreign_watch import ForeignRules
from libcalico.kernel.nft import Nft

async def commit(text):
    with Nft() as nft:
        nft.run(text)

async def main(prefixes, times):
    rules = ForeignRules(prefixes, commit)
    for _ in range(times):
        await rules.look()
    print("\\n".join(rules.pending()))

asyncio.run(main(tuple(sys.argv[2:]), int(sys.argv[1])))
"""
DOCKER = ("-P FORWARD DROP", "-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-A FORWARD -j DOCKER-USER")
KINDS = ("iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy")
FORMER = (
    "-t raw -N cali-PREROUTING",
    "-t raw -A cali-PREROUTING -m comment --comment cali:XFX5xbM8B9qR10JG -j MARK --set-xmark 0x0/0xf0000",
    "-t raw -I PREROUTING -m comment --comment cali:6gwbT8clXdHdC1b1 -j cali-PREROUTING",
    "-t mangle -N cali-POSTROUTING",
    "-t mangle -I POSTROUTING -m comment --comment cali:O3lYWMrLQYEMJtB5 -j cali-POSTROUTING",
    "-t nat -N cali-POSTROUTING",
    "-t nat -N cali-nat-outgoing",
    "-t nat -A cali-POSTROUTING -m comment --comment cali:Z-c7XtVd2Bq7s_hA -j cali-nat-outgoing",
    "-t nat -A POSTROUTING -m comment --comment cali:O3lYWMrLQYEMJtB6 -j cali-POSTROUTING",
    "-N cali-FORWARD",
    "-N cali-from-wl-dispatch",
    "-A cali-FORWARD -i cali+ -m comment --comment cali:8ZoYfO5HKXWbB3pk -j cali-from-wl-dispatch",
    "-A cali-from-wl-dispatch -m comment --comment cali:zTj6P0TIgYvgz-md -j DROP",
    "-I FORWARD -m comment --comment cali:wUHhoiAYhphO9Mso -j cali-FORWARD",
    "-A FORWARD -m comment --comment cali:S93hcgKJrXEqnTfs -m mark --mark 0x10000/0x10000 -j ACCEPT",
)
THEIRS = (
    "-N califragilistic",
    "-A INPUT -p tcp --dport 22 -m comment --comment calico -j ACCEPT",
    "-A FORWARD -i cali+ -p tcp --dport 25 -j DROP",
    "-t nat -A POSTROUTING -o eth9 -j MASQUERADE",
)
FORMER_TABLES = """
table ip calico {
  chain filter-cali-from-wl-dispatch { counter drop comment "cali:zeZtiiPDsE6BwqUG; Unknown interface"; }
  chain filter-FORWARD { type filter hook forward priority filter; iifname "cali*" jump filter-cali-from-wl-dispatch; }
}
table ip6 calico { chain raw-cali-PREROUTING { }; }
table arp calico-arp { chain filter-OUTPUT { type filter hook output priority filter; }; }
table ip mine { chain filter-cali-from-wl-dispatch { drop; }; }
"""


class Machine(Box):
    """Two containers that reach each other over both families, as far as other programs let them."""

    def __init__(self) -> None:
        super().__init__(NftOptions())
        self.add_ipv6()

    def reaches(self, kind: str) -> bool:
        address = "fd00:9::2" if kind.startswith("ip6") else "10.9.0.2"
        words = ["ip", "netns", "exec", f"{self.name}-1", "ping", "-c", "1", "-W", "1", address]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0

    def do(self, kind: str, *lines: str) -> None:
        for line in lines:
            self.run(kind, *line.split())

    def look(self, times: int = 1, *prefixes: str) -> str:
        return self.run(sys.executable, "-c", LOOK, str(times), *(prefixes or ("cali",)))

    def saved(self) -> str:
        """All rules of all programs, without counters and our own table."""
        parts = [self.run(f"{kind}-save") for kind in KINDS]
        kept = [line for part in parts for line in part.splitlines() if not line.startswith("#")]
        return "\n".join(line.partition(" [")[0] for line in kept)


@pytest.fixture
def machine() -> Iterator[Machine]:
    need(shutil.which("iptables-legacy") is not None, "iptables", "apt-get install iptables")
    made = Machine()
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("docker_user", [True, False], ids=["DOCKER-USER", "FORWARD alone"])
def test_containers_work_beside_dockers_forward(machine: Machine, kind: str, docker_user: bool) -> None:
    assert machine.reaches(kind)
    machine.do(kind, *(DOCKER if docker_user else DOCKER[:1]))
    before = machine.saved()
    assert not machine.reaches(kind)
    assert machine.look().strip() == ""
    assert machine.reaches(kind)
    stands = machine.saved()
    added = [line for line in stands.splitlines() if ACCEPT_COMMENT in line]
    assert sorted(set(stands.splitlines()) - set(before.splitlines())) == sorted(added)
    assert len(added) == 2 and all("-j ACCEPT" in line and "cali+" in line for line in added)
    machine.look()
    assert machine.saved() == stands, "a second look changes nothing"
    with_policy = "flush chain inet calico pro-anything; add rule inet calico pro-anything drop"
    machine.run("nft", with_policy)
    assert not machine.reaches(kind), "what our own table drops stays dropped"
    machine.run("nft", "flush chain inet calico pro-anything; add rule inet calico pro-anything accept")
    machine.do(kind, "-P FORWARD ACCEPT")
    machine.look()
    assert machine.saved() == before.replace(":FORWARD DROP", ":FORWARD ACCEPT")


@pytest.mark.parametrize("kind", KINDS[:2])
def test_containers_work_beside_a_chain_that_rejects_at_its_end(machine: Machine, kind: str) -> None:
    machine.do(kind, "-N RH-INPUT", "-N LAST", "-A FORWARD -j RH-INPUT", "-A RH-INPUT -g LAST", "-A LAST -j REJECT")
    assert not machine.reaches(kind)
    machine.look()
    assert machine.reaches(kind)
    stands = machine.saved()
    machine.look()
    assert machine.saved() == stands


@pytest.mark.parametrize("kind", KINDS[:2])
def test_the_users_own_rules_in_docker_user_count(machine: Machine, kind: str) -> None:
    machine.do(kind, *DOCKER)
    machine.look()
    machine.do(kind, "-I DOCKER-USER -i cali1 -j DROP")
    assert not machine.reaches(kind)
    machine.do(kind, "-D DOCKER-USER -i cali1 -j DROP", "-F DOCKER-USER", "-A DOCKER-USER -i cali2 -j DROP")
    assert not machine.reaches(kind)
    machine.look()
    machine.do(kind, "-R DOCKER-USER 1 -i eth7 -j DROP")
    assert machine.reaches(kind), "the accept is back after Docker has written its chains again"
    machine.run(sys.executable, "-c", LOOK, "1")
    assert ACCEPT_COMMENT not in machine.saved(), "without prefixes it is taken away"


def chains_and_rules(saved: str) -> list[str]:
    """Without the tables' own chains, which stay once something has made them."""
    return [line for line in saved.splitlines() if line.startswith("-A ") or line.endswith(" -")]


def test_what_a_former_felix_left_goes_and_nothing_else(machine: Machine) -> None:
    for kind in KINDS:
        machine.do(kind, *THEIRS)
    machine.run("ipset", "create", "mine", "hash:ip")
    before = machine.saved()
    for kind in KINDS:
        machine.do(kind, *FORMER)
    for name in ("cali40s:abc", "cali60s:abc", "cali4t0"):
        machine.run("ipset", "create", name, "hash:ip")
    machine.do("iptables-nft", "-A cali-FORWARD -m set --match-set cali40s:abc src -j DROP")
    machine.run("nft", FORMER_TABLES)
    assert not machine.reaches("ip") and "cali-" in machine.saved()
    assert machine.look().strip() == ""
    assert chains_and_rules(machine.saved()) == chains_and_rules(before)
    tables = machine.run("nft", "list", "tables").splitlines()
    assert "table ip mine" in tables and not {"table ip calico", "table ip6 calico", "table arp calico-arp"} & {*tables}
    assert machine.run("ipset", "list", "-n").split() == ["mine"]
    assert "inet calico" in machine.run("nft", "list", "tables"), "ours"


def test_a_teardown_leaves_nothing_of_ours_and_all_of_others(machine: Machine, tmp_path: Path) -> None:
    for kind in KINDS:
        machine.do(kind, *DOCKER, *THEIRS, *FORMER[:2])
    before = machine.saved()
    machine.look()
    machine.run("ip", "route", "add", "blackhole", "10.9.9.0/26", "proto", "80")
    (tmp_path / "mtu").write_text("1450\n")
    words = ("env", f"FELIX_MTUFILE={tmp_path}/mtu", sys.executable, "-m", "calico_felix.main", "teardown")
    for _ in range(2):
        machine.run(*words)
    left = machine.saved()
    assert ACCEPT_COMMENT not in left
    assert [one for one in chains_and_rules(before) if "cali-" not in one] == chains_and_rules(left)
    assert "inet calico" not in machine.run("nft", "list", "tables")
    assert "10.9.9.0" not in machine.run("ip", "route")
    assert not (tmp_path / "mtu").exists()


@pytest.mark.parametrize(("policy", "last", "why"), [
    ("drop", "", "policy drop"), ("accept", "jump end", "its last word is drop or reject"),
])  # fmt: skip
def test_a_chain_of_the_users_own_is_named_and_left_alone(machine: Machine, policy: str, last: str, why: str) -> None:
    hook = f"type filter hook forward priority 0; policy {policy};"
    chains = f"chain end {{ counter drop; }}; chain c {{ {hook} ct state established accept; {last}; }}"
    machine.run("nft", f"table inet mine {{ {chains}; }}")
    line = machine.look().strip()
    assert line.startswith(f"nftables table inet mine, chain c ({why}) cuts workloads off; this mends it: ")
    assert not machine.reaches("ip")
    machine.run("sh", "-c", line.partition("mends it: ")[2])
    assert machine.look().strip() == ""
    assert machine.reaches("ip")


@pytest.mark.parametrize("direction", ["input", "output"])
def test_a_chain_that_drops_workloads_arp_is_named(machine: Machine, direction: str) -> None:
    """As `arptables -P INPUT DROP` makes it; a container that knows no MAC of its gateway reaches nobody then."""
    machine.run("ip", "addr", "add", "169.254.1.1/32", "dev", "lo")
    hook = f"type filter hook {direction} priority 0; policy drop;"
    machine.run("nft", f"table arp filter {{ chain {direction.upper()} {{ {hook} }}; }}")
    line = machine.look().strip()
    assert line.startswith(f"nftables table arp filter, chain {direction.upper()} (policy drop) cuts workloads off")
    machine.inside(1, "ip", "neigh", "del", "169.254.1.1", "dev", "eth0")
    assert not machine.reaches("ip")
    machine.run("sh", "-c", line.partition("mends it: ")[2])
    assert machine.look().strip() == ""
    assert machine.reaches("ip")


@pytest.mark.parametrize("kind", KINDS)
def test_a_security_table_that_drops_is_named(machine: Machine, kind: str) -> None:
    machine.do(kind, "-t security -P FORWARD DROP")
    assert not machine.reaches(kind)
    for line in machine.look().splitlines():
        machine.run("sh", "-c", line.partition("mends it: ")[2])
    assert machine.look().strip() == ""
    assert machine.reaches(kind)


@pytest.fixture
def firewalld(machine: Machine, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """firewalld as Debian ships it, in the host's namespace, on a bus of its own; what firewall-cmd answers."""
    need(shutil.which("firewalld") is not None and shutil.which("dbus-daemon") is not None, "firewalld and dbus-daemon",
         "apt-get install --no-install-recommends firewalld dbus-daemon")  # fmt: skip
    bus, conf = f"unix:path={tmp_path}/bus", tmp_path / "conf"
    conf.mkdir()
    shutil.copy("/etc/firewalld/firewalld.conf", conf)
    within = ["env", f"DBUS_SYSTEM_BUS_ADDRESS={bus}", "ip", "netns", "exec", machine.name]
    words = ["firewalld", "--nofork", "--nopid", "--system-config", str(conf), "--log-file", str(tmp_path / "log")]

    def command(*arguments: str) -> str:
        done = subprocess.run([*within, *arguments], check=False, capture_output=True, text=True)
        return done.stdout

    with ExitStack() as stack:
        for started in (["dbus-daemon", "--session", f"--address={bus}", "--nofork", "--nopidfile"], [*within, *words]):
            process = subprocess.Popen([*DIE_WITH_US, *started], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        ends = time.monotonic() + WAIT_S
        while command("firewall-cmd", "--state").strip() != "running":
            assert time.monotonic() < ends and process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield command


def test_firewalld_is_named_and_its_line_mends_it(machine: Machine, firewalld: Callable[..., str]) -> None:
    assert not machine.reaches("ip") and not machine.reaches("ip6")
    line = machine.look().strip()
    assert line.startswith("nftables table inet firewalld, chain filter_FORWARD (") and "firewall-cmd" in line
    assert "success" in firewalld("sh", "-c", line.partition("mends it: ")[2])
    assert machine.look().strip() == ""
    assert machine.reaches("ip") and machine.reaches("ip6")
    assert "success" in firewalld("firewall-cmd", "--reload")
    assert machine.look().strip() == "" and machine.reaches("ip"), "it lasts"
    machine.run("nft", "flush chain inet calico pro-anything; add rule inet calico pro-anything drop")
    assert not machine.reaches("ip"), "what our own table drops stays dropped"


def test_a_running_agent_keeps_its_accept_and_names_what_is_in_the_way(tmp_path: Path) -> None:
    async def scenario(agent: Agent) -> None:
        agent.start()
        await agent.wait("start", programmed)
        path = agent.host.socket

        async def until_forward(word: str, there: bool) -> None:
            async with asyncio.timeout(WAIT_S):
                while (word in agent.nft("list", "table", "ip", "filter")) != there:
                    await asyncio.sleep(0.05)

        hook = "{ type filter hook forward priority 0; policy drop; }"
        agent.nft(f"add table ip filter; add chain ip filter FORWARD {hook}")
        await until_forward(ACCEPT_COMMENT, True)
        agent.nft("flush chain ip filter FORWARD")
        await until_forward(ACCEPT_COMMENT, True)
        agent.nft(f"add table inet mine; add chain inet mine c {hook}")
        async with asyncio.timeout(WAIT_S):
            while "inet mine, chain c" not in await node_door.ask(path, "pending"):
                await asyncio.sleep(0.05)
        status = await agent.status()
        assert (status["repairs"], status["failures"], status["foreign_accepts"]) == (0, 0, 2)
        agent.nft("add chain ip filter FORWARD { policy accept; }")
        await until_forward(ACCEPT_COMMENT, False)

    play(tmp_path, scenario)
