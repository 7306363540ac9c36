"""Other programs' packet filters: what is read of a kernel, what is done about it, and what is left to a person."""

from __future__ import annotations

import asyncio
import errno

import pytest

from calico_felix.dataplane import foreign_watch
from calico_felix.dataplane.foreign import ACCEPT_COMMENT
from calico_felix.dataplane.foreign_watch import SWEEPS, ForeignRules
from calico_felix.dataplane.manager import Context
from libcalico.errors import Unavailable
from libcalico.kernel.iptables import LegacyMissing
from libcalico.testing.kernel import FakeKernel

pytest_plugins = ["calico_felix.testing"]

DOCKER = """\
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }
add chain ip filter DOCKER-USER
add rule ip filter FORWARD counter jump DOCKER-USER
add rule ip filter FORWARD iifname "docker0" accept
add rule ip filter DOCKER-USER ip saddr 198.51.100.7 drop
add rule ip filter DOCKER-USER counter return"""
ACCEPTS = [f'{way}ifname "cali*" counter accept comment "{ACCEPT_COMMENT}"' for way in "io"]
FORMER = """\
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority filter; policy accept; }
add chain ip filter cali-FORWARD
add rule ip filter cali-FORWARD drop
add rule ip filter FORWARD counter jump cali-FORWARD comment "cali:wUHhoiAYhphO9Mso\""""
FIREWALL = """\
add table inet mine
add chain inet mine pass { type filter hook forward priority filter; policy drop; }"""


@pytest.fixture
def rules(context: Context, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> ForeignRules:
    async def commit(text: str) -> None:
        kernel.nft.run(text.rstrip("\n"))

    monkeypatch.setattr(foreign_watch, "legacy_tables", lambda _family: [])
    monkeypatch.setattr(foreign_watch, "_destroy_former_sets", lambda: [])
    return ForeignRules(("cali",), commit, context.handles.open_reader)


def chain(kernel: FakeKernel, name: str, table: str = "ip filter") -> list[str]:
    return [text for _handle, text in kernel.nft.tables[table].chains[name].rules]


async def test_docker_s_forward_gets_our_accepts_behind_the_user_s_rules_once(
    rules: ForeignRules, kernel: FakeKernel
) -> None:
    kernel.nft.run(DOCKER, asked=False)
    await rules.look()
    assert chain(kernel, "DOCKER-USER") == ["ip saddr 198.51.100.7 drop", *ACCEPTS, "counter return"]
    assert rules.figures() == {"felix_foreign_accepts": 2} and rules.pending() == []
    kernel.take_commands()
    await rules.look()
    assert kernel.commands == [] and rules.accepts == 2
    await rules.clear()
    assert chain(kernel, "DOCKER-USER") == ["ip saddr 198.51.100.7 drop", *ACCEPTS, "counter return"]
    rules._prefixes = ()
    await rules.clear()
    assert chain(kernel, "DOCKER-USER") == ["ip saddr 198.51.100.7 drop", "counter return"]


async def test_accepts_that_are_not_needed_any_more_go(rules: ForeignRules, kernel: FakeKernel) -> None:
    kernel.nft.run(DOCKER, asked=False)
    await rules.look()
    kernel.nft.tables["ip filter"].chains["FORWARD"].hook = "type filter hook forward priority filter; policy accept;"
    await rules.look()
    assert chain(kernel, "DOCKER-USER") == ["ip saddr 198.51.100.7 drop", "counter return"]
    assert rules.accepts == 0


async def test_what_a_former_felix_left_is_removed_but_one_that_is_alive_is_named(
    rules: ForeignRules, kernel: FakeKernel
) -> None:
    for _ in range(SWEEPS):
        kernel.nft.run(FORMER, asked=False)
        kernel.nft.run("add table ip calico\nadd chain ip calico filter-cali-FORWARD", asked=False)
        rules.changed.clear()
        await rules.look()
        assert list(kernel.nft.tables) == ["ip filter"] and list(kernel.nft.tables["ip filter"].chains) == ["FORWARD"]
        assert chain(kernel, "FORWARD") == [] and rules.changed.is_set()
    kernel.nft.run(FORMER, asked=False)
    await rules.look()
    assert rules.pending() == [
        "nftables ip filter: another Felix writes its rules again and again: stop that service"
    ]  # fmt: skip
    assert "cali-FORWARD" in kernel.nft.tables["ip filter"].chains


async def test_a_chain_of_others_that_cuts_workloads_off_is_named_once(
    rules: ForeignRules, kernel: FakeKernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.nft.run(FIREWALL, asked=False)
    kernel.take_commands()
    for _ in range(2):
        await rules.look()
    assert len(rules.pending()) == 1 and "nftables table inet mine, chain pass (policy drop)" in rules.pending()[0]
    assert caplog.text.count("cuts workloads off") == 1 and kernel.commands == []
    kernel.nft.run('add rule inet mine pass iifname "cali*" accept\nadd rule inet mine pass oifname "cali*" accept')
    await rules.look()
    assert rules.pending() == []


class FakeLegacy:
    """iptables-legacy of one family, whose filter table cuts workloads off."""

    def __init__(self) -> None:
        self.restored: list[str] = []
        self.missing = False

    async def save(self, table: str) -> str:
        if self.missing:
            raise LegacyMissing("iptables-legacy is not installed")
        return f"*{table}\n:FORWARD DROP [0:0]\nCOMMIT\n" if table == "filter" else f"*{table}\nCOMMIT\n"

    async def restore(self, text: str) -> None:
        self.restored.append(text)


async def test_legacy_tables_are_changed_by_their_own_program(
    rules: ForeignRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy = FakeLegacy()
    rules._legacy["ip"] = legacy  # type: ignore[assignment]
    monkeypatch.setattr(foreign_watch, "legacy_tables", lambda one: ["filter", "raw"] if one == "ip" else [])
    await rules.look()
    assert legacy.restored == [
        "*filter\n"
        f'-I FORWARD 1 -i cali+ -m comment --comment "{ACCEPT_COMMENT}" -j ACCEPT\n'
        f'-I FORWARD 2 -o cali+ -m comment --comment "{ACCEPT_COMMENT}" -j ACCEPT\nCOMMIT\n'
    ]
    legacy.missing = True
    await rules.look()
    assert rules.pending() == [
        "legacy tables of ip (filter, raw) may drop workloads' packets, and they cannot be read: "
        "iptables-legacy is not installed"
    ]


async def test_sets_of_a_former_felix_are_destroyed(
    rules: ForeignRules, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(foreign_watch, "_destroy_former_sets", lambda: ["cali40s:x"])
    await rules.look()
    assert "removed what a former Felix left: 1 ipsets" in caplog.text


async def test_it_looks_when_our_rules_stand_and_again_when_others_change_theirs(
    rules: ForeignRules, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_watch, "PAUSE_S", 0.0)
    monkeypatch.setattr(foreign_watch, "SETTLE_S", 0.0)
    monkeypatch.setattr(foreign_watch, "RETRY_S", 0.01)
    standing, looks = asyncio.Event(), list[int]()
    look = rules.look

    async def counted() -> None:
        looks.append(len(looks))
        if len(looks) == 2:
            raise Unavailable("busy")
        await look()

    monkeypatch.setattr(rules, "look", counted)
    running = asyncio.ensure_future(rules.run(standing))
    await asyncio.sleep(0)
    assert looks == []
    standing.set()
    async with asyncio.timeout(30):
        while len(looks) < 1:
            await asyncio.sleep(0.001)
        kernel.nft.run(FIREWALL, asked=False)
        rules.changed.set()
        while not rules.pending() or "inet mine" not in rules.pending()[0]:
            await asyncio.sleep(0.001)
    assert len(looks) >= 3, "one that failed is followed by another"
    running.cancel()


async def test_a_change_that_is_refused_is_raised_to_be_tried_again(rules: ForeignRules, kernel: FakeKernel) -> None:
    kernel.nft.run(DOCKER, asked=False)
    kernel.refuse("insert rule", errno.EBUSY)
    with pytest.raises(Unavailable):
        await rules.look()
    await rules.look()
    assert rules.accepts == 2
