"""The ruleset in the kernel: what is written, refused, repaired, and who learns of it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_felix.dataplane import ruleset_writer
from calico_felix.dataplane.handles import Handles
from calico_felix.dataplane.loop import Dataplane
from calico_felix.dataplane.manager import Context
from calico_felix.dataplane.write_state import CHANGES, TO_WRITE, WHOLE_ANYWAY, Event, Progress, State
from libcalico.calc.messages import IPSet
from libcalico.errors import Bug
from libcalico.kernel.nft import NftError, Refusal
from libcalico.net import Cidr
from libcalico.policy.ir import Action, Policy, PolicyId, Rule, Side
from libcalico.policy.nft.table import Table
from libcalico.testing.clock import ManualClock
from libcalico.testing.flushes import endpoint, flush
from libcalico.testing.kernel import FakeKernel

pytest_plugins = ["calico_felix.testing"]

A, B = endpoint("a", "10.0.0.1/32"), endpoint("b", "10.0.0.2/32", revision=7)
SET = IPSet("s:x", False, frozenset({Cidr(4, 0x0A000009, 32)}))
NETWORKS = IPSet("s:x", False, frozenset({Cidr(4, 0x0A000000, 24), Cidr(4, 0x0B000000, 24)}))
POLICY = PolicyId("GlobalNetworkPolicy", "", "p")


def policy(identity: PolicyId = POLICY, sets: tuple[str, ...] = ()) -> Policy:
    return Policy(identity, "default", (Rule(Action.ALLOW, 1, source=Side(sets=sets)),), ())


@pytest.fixture
async def dataplane(context: Context) -> Dataplane:
    made = Dataplane(context.config, context.clock, context.handles)
    await made.context.handles.open()
    made.connections._found = set()
    return made


def table(kernel: FakeKernel) -> str:
    return kernel.show("nft")


async def test_nothing_is_written_before_the_first_flush_and_the_first_write_replaces_all(
    dataplane: Dataplane, kernel: FakeKernel
) -> None:
    kernel.nft.run("add table inet calico\nadd chain inet calico old\nadd rule inet calico old accept", asked=False)
    before = table(kernel)
    dataplane.writer.spoil()
    await dataplane.writer.apply(0.0)
    assert (table(kernel), dataplane.writer.is_started) == (before, False)
    assert dataplane.writer.next_try_s(0.0) is None
    dataplane.on_flush(flush(A))
    await dataplane.writer.apply(0.0)
    assert "chain old" not in table(kernel) and '"calia" : jump fw-calia' in table(kernel)
    assert table(kernel).count('"calia"') == 2


async def test_to_write_twice_changes_nothing(dataplane: Dataplane, kernel: FakeKernel) -> None:
    dataplane.on_flush(flush(A, policies={POLICY: policy(sets=("s:x",))}, sets={"s:x": SET}))
    await dataplane.writer.apply(0.0)
    written, before = table(kernel), len(kernel.nft.transactions)
    dataplane.on_flush(flush(A))
    await dataplane.writer.apply(0.0)
    assert (table(kernel), len(kernel.nft.transactions)) == (written, before)
    dataplane.resync()
    await dataplane.writer.apply(0.0)
    assert table(kernel) == written


async def test_members_go_alone_and_new_networks_one_transaction_before_their_rules(
    dataplane: Dataplane, kernel: FakeKernel
) -> None:
    dataplane.on_flush(flush(A, policies={POLICY: policy(sets=("s:x",))}, sets={"s:x": SET}))
    await dataplane.writer.apply(0.0)
    assert "= { 10.0.0.9 }" in table(kernel)
    kernel.nft.transactions.clear()
    more = SET._replace(members=SET.members | {Cidr(4, 0x0A000008, 32)})
    dataplane.on_flush(flush(sets={"s:x": more}))
    await dataplane.writer.apply(0.0)
    assert "= { 10.0.0.8, 10.0.0.9 }" in table(kernel)
    assert kernel.nft.transactions == ["elements of ip4-s-x"]
    kernel.nft.transactions.clear()
    dataplane.on_flush(flush(sets={"s:x": NETWORKS}))
    await dataplane.writer.apply(0.0)
    assert len(kernel.nft.transactions) == 2
    assert "= { 10.0.0.0/24, 11.0.0.0/24 }" in table(kernel)
    dataplane.on_flush(flush(policies={POLICY: None}, sets={"s:x": None}))
    await dataplane.writer.apply(0.0)
    assert "s-x" not in table(kernel)


async def test_a_chain_that_is_refused_is_closed_and_the_rest_stands(dataplane: Dataplane, kernel: FakeKernel) -> None:
    good = PolicyId("GlobalNetworkPolicy", "", "good")
    kernel.refuse("add rule inet calico pi-gnp/p ", errno.EINVAL)
    dataplane.on_flush(flush(A, policies={POLICY: policy(), good: policy(good)}))
    await dataplane.writer.apply(0.0)
    assert set(dataplane.ruleset.quarantined) == {"pi-gnp/p"}
    assert dataplane.writer.pending() == ["chain pi-gnp/p: refused (22)"] == dataplane.pending()
    chains = {block.split()[0]: block for block in table(kernel).split("  chain ")[1:]}
    assert "accept" not in chains["pi-gnp/p"] and "drop" in chains["pi-gnp/p"] and "accept" in chains["pi-gnp/good"]
    assert dataplane.readiness.programmed == {A.key: 1} and dataplane.context.failures.count == 1
    dataplane.on_flush(flush(policies={POLICY: policy()}))
    await dataplane.writer.apply(0.0)
    assert dataplane.pending() == []


async def test_a_set_that_is_refused_closes_the_chains_that_use_it(dataplane: Dataplane, kernel: FakeKernel) -> None:
    kernel.refuse("elements = { 10.0.0.9 }", errno.EINVAL)
    dataplane.on_flush(flush(policies={POLICY: policy(sets=("s:x",))}, sets={"s:x": SET}))
    await dataplane.writer.apply(0.0)
    assert set(dataplane.ruleset.quarantined) == {"pi-gnp/p"}
    assert "10.0.0.9" not in table(kernel)
    assert not dataplane.ruleset.quarantine_set("ip4-s-x", "is closed already")


async def test_elements_that_are_refused_are_written_with_all_else(dataplane: Dataplane, kernel: FakeKernel) -> None:
    dataplane.on_flush(flush(A, policies={POLICY: policy(sets=("s:x",))}, sets={"s:x": SET}))
    await dataplane.writer.apply(0.0)
    kernel.refuse("add elements of ip4-s-x", errno.ENOENT)
    dataplane.on_flush(flush(sets={"s:x": SET._replace(members=SET.members | {Cidr(4, 0x0A000008, 32)})}))
    await dataplane.writer.apply(0.0)
    assert "= { 10.0.0.8, 10.0.0.9 }" in table(kernel) and dataplane.pending() == []


class Refusing:
    """A programmer that refuses what it is given, one answer after the other."""

    def __init__(self, *answers: NftError) -> None:
        self.answers: Iterator[NftError] = iter(answers)
        self.written: list[bool] = []

    def write(self, wanted: Table, former: Table | None) -> None:
        if (answer := next(self.answers, None)) is not None:
            raise answer
        self.written.append(former is None)


def refuse(handles: Handles, *answers: NftError) -> Refusing:
    handles.programmer = made = Refusing(*answers)  # type: ignore[assignment]
    return made


async def test_many_chains_are_closed_one_after_the_other_but_never_one_of_all_packets(dataplane: Dataplane) -> None:
    many = [endpoint(f"e{number}", f"10.0.1.{number}/32") for number in range(20)]
    dataplane.on_flush(flush(*many))
    chains = [name for name in dataplane.ruleset.table.chains if name.startswith("tw-")]
    programmer = refuse(
        dataplane.context.handles, *(NftError("no", 1, f"add rule inet calico {chain} accept") for chain in chains)
    )
    await dataplane.writer.apply(0.0)
    assert set(dataplane.ruleset.quarantined) == set(chains) and programmer.written == [True]
    base = next(name for name, chain in dataplane.ruleset.table.chains.items() if chain.hook)
    dataplane.resync()
    refuse(dataplane.context.handles, *[NftError("no", 1, f"add rule inet calico {base} accept")] * 10)
    with pytest.raises(Bug, match="refused the ruleset 10 times"):
        await dataplane.writer.apply(0.0)


async def test_all_that_one_answer_refuses_is_closed_before_the_next_try(
    dataplane: Dataplane, caplog: pytest.LogCaptureFixture
) -> None:
    many = [endpoint(f"e{number}", f"10.0.1.{number}/32") for number in range(20)]
    dataplane.on_flush(flush(*many, sets={"s:x": SET}))
    chains = [name for name in dataplane.ruleset.table.chains if name.startswith("tw-")]
    refusals = [Refusal(number, f"add rule inet calico {chain} accept", "no") for number, chain in enumerate(chains)]
    refusals.append(Refusal(99, "add set inet calico ip4-s-x { type ipv4_addr; elements = { x } }", "no"))
    programmer = refuse(dataplane.context.handles, NftError("no", 1, refusals[0].command, refusals))
    await dataplane.writer.apply(0.0)
    assert set(dataplane.ruleset.quarantined) == set(chains) and programmer.written == [True]
    assert dataplane.context.failures.count == 1 and "and 1 more" in caplog.text


async def test_a_difference_of_which_nothing_is_to_blame_is_followed_by_the_whole(dataplane: Dataplane) -> None:
    """Another process has deleted the table a moment ago: the rules are fine, and the next try writes all of it."""
    dataplane.on_flush(flush(A))
    await dataplane.writer.apply(0.0)
    dataplane.on_flush(flush(B))
    refused = NftError("No such file or directory", 1, "add rule inet calico tw-calib accept")
    refused.refusals = []
    programmer = refuse(dataplane.context.handles, refused)
    await dataplane.writer.apply(0.0)
    assert programmer.written == [True] and dataplane.ruleset.quarantined == {}


async def test_what_another_process_does_to_the_table_is_undone(
    dataplane: Dataplane, kernel: FakeKernel, clock: ManualClock
) -> None:
    watch = asyncio.ensure_future(dataplane.writer.watch())
    dataplane.on_flush(flush(A))
    await dataplane.writer.apply(0.0)
    written = table(kernel)
    dataplane.context.wake.clear()
    for text in ("flush ruleset", "flush chain inet calico fw-calia"):
        kernel.nft.by_another(text)
        async with asyncio.timeout(30):
            await dataplane.context.wake.wait()
        dataplane.context.wake.clear()
        assert dataplane.writer.next_try_s(0.0) is not None
        await dataplane.writer.apply(0.0)
        assert table(kernel) == written
    assert (dataplane.writer.repairs, clock.sleeps[0]) == (2, ruleset_writer.REPAIR_INTERVAL_S)
    assert dataplane.writer.figures()["felix_ruleset_repairs"] == 2
    watch.cancel()


@pytest.mark.parametrize("what", ["spoiled", "changed"])
async def test_what_happens_during_a_transaction_makes_the_next_one(dataplane: Dataplane, what: str) -> None:
    dataplane.on_flush(flush(A))
    await dataplane.writer.apply(0.0)
    dataplane.on_flush(flush(B))
    loop, programmer = asyncio.get_running_loop(), refuse(dataplane.context.handles)

    async def meanwhile() -> None:
        dataplane.writer.spoil() if what == "spoiled" else dataplane.on_flush(flush(gone=[A, B], revision=9))

    def write(wanted: Table, former: Table | None) -> None:
        programmer.written.append(former is None)
        if len(programmer.written) == 1:
            asyncio.run_coroutine_threadsafe(meanwhile(), loop).result()

    programmer.write = write  # type: ignore[method-assign]
    await dataplane.writer.apply(0.0)
    assert dataplane.writer.progress.is_due
    if what == "changed":
        assert dataplane.readiness.programmed == {}, "who is gone is not ready"
        assert dataplane.readiness.programmed_revision == 1
    await dataplane.writer.apply(0.0)
    assert programmer.written == [False, what == "spoiled"] and dataplane.writer.progress.is_clean


async def test_a_revision_that_comes_during_a_transaction_counts_after_it(dataplane: Dataplane) -> None:
    dataplane.on_flush(flush(A))
    dataplane.note_revision(8)
    assert dataplane.readiness.programmed_revision == 0
    programmer = refuse(dataplane.context.handles)
    programmer.write = lambda wanted, former: dataplane.note_revision(9)  # type: ignore[method-assign]
    await dataplane.writer.apply(0.0)
    assert dataplane.readiness.programmed_revision == 9
    dataplane.note_revision(10)
    assert dataplane.readiness.figures() == {"felix_programmed_revision": 10}
    dataplane.readiness.forget()
    assert dataplane.readiness.programmed_revision == 0


async def test_changes_to_tables_of_others_are_one_transaction(dataplane: Dataplane, kernel: FakeKernel) -> None:
    await dataplane.writer.commit("add table ip other\n")
    assert "table ip other" in table(kernel)


def test_the_table_of_states_has_no_dead_end_and_says_what_cannot_happen() -> None:
    reached, ways = {State.WAITING}, [State.WAITING]
    while ways:
        for after in set(CHANGES[ways.pop()].values()) - reached:
            reached.add(after)
            ways.append(after)
    assert reached == set(State) == set(CHANGES)
    for state, changes in CHANGES.items():
        assert {Event.CHANGED, Event.SPOILED} <= changes.keys(), "those come from outside, at any time"
        assert (Event.BEGUN in changes) == (state in TO_WRITE)
        assert (Event.STANDS in changes) == (Event.REFUSED in changes) == state.name.startswith("WRITING")
        assert changes.get(Event.REFUSED, State.UNKNOWN) in WHOLE_ANYWAY
    progress = Progress()
    with pytest.raises(Bug, match="WAITING, and BEGUN came"):
        progress.on(Event.BEGUN)


def test_the_page_of_the_dataplane_has_the_same_states() -> None:
    page = Path(__file__).resolve().parents[3] / "docs/design/dataplane.md"
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines()]
    written = {
        State[row[0]]: {event: State[after] for event, after in zip(Event, row[4:], strict=True) if after}
        for row in rows
        if row and row[0] in State.__members__
    }
    assert written == CHANGES
