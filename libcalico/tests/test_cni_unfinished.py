"""DELs that fail while the datastore is away are kept and finished, and harm nobody who came meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from libcalico.cni import unfinished
from libcalico.cni.finisher import KEPT, LAST_PAUSE_S, Finisher
from libcalico.cni.unfinished import Unfinished
from libcalico.errors import DatastoreError, ResourceUpdateConflict, Unreachable
from libcalico.model.resources import ClusterInformation, WorkloadEndpoint
from libcalico.testing.clock import ManualClock
from libcalico.testing.cni_world import ID, World
from libcalico.workload.work import Work

AWAY = Unreachable("etcd is away")


class Store:
    """A world whose datastore can go away, and the agent's finisher."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World()
        self.clock = ManualClock(100.0)
        self.kept = Unfinished(str(directory))
        self.world.kept = self.kept
        self.world.host.clock = self.clock
        self.is_away = False
        self.asked = 0
        for name in ("range", "txn"):
            monkeypatch.setattr(self.world.store, name, self._may_fail(getattr(self.world.store, name)))
        self.restart()

    def _may_fail(self, call: Any) -> Any:
        async def guarded(*arguments: Any, **named: Any) -> Any:
            self.asked += 1
            if self.is_away:
                raise AWAY
            return await call(*arguments, **named)

        return guarded

    def restart(self) -> None:
        """Another process, which knows the folder alone."""
        self.finisher = Finisher(self.world.host, Unfinished(str(self.kept.directory.parents[1])), self._answers)

    def _answers(self) -> bool:
        return not self.is_away

    async def lose(self, program: str = "calico", **members: Any) -> None:
        """A DEL while the datastore is away, for a runtime that forgets the container and ends its namespace."""
        self.is_away = True
        answer = await self.world.refused("DEL", program=program, **members)
        assert answer["code"] == 11
        self.end_namespaces()
        self.is_away = False

    def end_namespaces(self) -> None:
        self.world.kernel.host.clear()
        self.world.kernel.boxes.clear()


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path, monkeypatch)
    await made.world.start()
    return made


async def test_a_del_that_failed_is_finished_when_the_datastore_answers(store: Store) -> None:
    await store.world.ok("ADD")
    await store.lose()
    store.is_away = True
    await store.finisher.look()
    assert len(store.finisher) == 1 and not await is_free(store)
    store.is_away = False
    await store.finisher.look()
    assert await store.world.is_clean() and len(store.finisher) == 0 and not store.finisher.problems()


async def is_free(store: Store) -> bool:
    before, store.is_away = store.is_away, False
    try:
        return await store.world.is_clean()
    finally:
        store.is_away = before


async def test_the_answer_stays_and_the_note_says_who_goes_on(store: Store) -> None:
    await store.world.ok("ADD")
    store.is_away = True
    answer = await store.world.call("DEL")
    assert json.loads(answer.stdout) == {"code": 11, "msg": "etcd is away: try again later"}
    assert b"the agent finishes this DEL once it can" in answer.stderr


async def test_it_outlives_the_agent(store: Store) -> None:
    await store.world.ok("ADD")
    await store.lose()
    store.restart()
    assert store.finisher.problems()[0].startswith("1 DEL(s) could not be finished")
    await store.finisher.look()
    assert await store.world.is_clean()


@pytest.mark.parametrize("command", ["ADD", "DEL"])
async def test_the_next_call_of_the_attachment_that_succeeds_cancels_it(store: Store, command: str) -> None:
    await store.world.ok("ADD")
    await store.lose()
    await store.world.ok(command)
    assert len(store.finisher) == 0
    await store.finisher.look()
    assert len(await store.world.endpoints()) == (command == "ADD")


async def test_an_add_that_fails_cancels_nothing(store: Store) -> None:
    await store.world.ok("ADD")
    await store.lose()
    store.is_away = True
    await store.world.refused("ADD")
    store.is_away = False
    await store.finisher.look()
    assert await store.world.is_clean()


async def test_an_add_that_comes_while_it_waits_for_its_turn_cancels_it(store: Store) -> None:
    await store.world.ok("ADD")
    await store.lose()
    store.world.kernel.pause_s = 0.05
    adding = asyncio.ensure_future(store.world.ok("ADD"))
    await asyncio.sleep(0.01)
    await store.finisher.look()
    await adding
    (endpoint,) = await store.world.endpoints()
    assert endpoint.spec.interface_name in store.world.kernel.host and len(store.finisher) == 0


async def test_an_interface_that_stands_is_somebodys(store: Store) -> None:
    """The container was started by an ADD that knew nothing of the file, say: nothing of it may go."""
    await store.world.ok("ADD")
    store.is_away = True
    await store.world.refused("DEL")
    store.is_away = False
    held = await store.world.held()
    await store.finisher.look()
    assert await store.world.held() == held and len(await store.world.endpoints()) == 1
    assert "waits for the end of host interface cali5f0c9e11-2b" in store.finisher.problems()[1]
    asked = store.asked
    await store.finisher.look()
    assert store.asked == asked, "it is not due"
    store.end_namespaces()
    store.clock.at_s += LAST_PAUSE_S
    await store.finisher.look()
    assert await store.world.is_clean()


async def test_a_half_made_container_whose_endpoint_is_not_stored_keeps_its_address(store: Store) -> None:
    await store.world.ok("ADD")
    await store.lose()
    (endpoint,) = await store.world.endpoints()
    await store.world.client.delete(WorkloadEndpoint, endpoint.metadata.name, endpoint.metadata.namespace)
    store.world.kernel.host[endpoint.spec.interface_name] = ("/new", "eth0")
    await store.finisher.look()
    assert await store.world.held() and len(store.finisher) == 1


async def test_the_namespace_of_the_call_is_not_touched(store: Store) -> None:
    """By now the path may lead to another container's, which has an eth0 too."""
    await store.world.ok("ADD")
    await store.lose()
    other = "8" * 36
    await store.world.ok("ADD", other, "/box")
    await store.finisher.look()
    (endpoint,) = await store.world.endpoints()
    assert endpoint.spec.container_id == other and ("/box", "eth0") in store.world.kernel.boxes


async def test_addresses_of_calico_ipam_wait_for_the_end_of_the_namespace(store: Store, tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.touch()
    await store.world.ok("ADD", ID, str(box), program="calico-ipam")
    store.is_away = True
    await store.world.refused("DEL", ID, str(box), program="calico-ipam")
    store.is_away = False
    await store.finisher.look()
    assert await store.world.held() and "waits for the end of namespace" in store.finisher.problems()[1]
    box.unlink()
    store.clock.at_s += LAST_PAUSE_S
    await store.finisher.look()
    assert not await store.world.held() and len(store.finisher) == 0


async def test_what_a_caller_that_went_away_did_not_wait_for_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.world.ok("ADD")
    gate = asyncio.Event()
    store.is_away = True

    async def hang(*_arguments: object, **_named: object) -> None:
        await gate.wait()
        raise AWAY

    monkeypatch.setattr(store.world.store, "range", hang)
    task = asyncio.ensure_future(store.world.call("DEL"))
    await asyncio.sleep(0.01)
    task.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(store.finisher) == 1


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [(DatastoreError("x"), True), (TimeoutError(), True), (ResourceUpdateConflict("x"), True), (OSError(5, "x"), True)],
)
async def test_what_may_pass_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception, is_kept: bool
) -> None:
    async def fail(_work: Work, _other: object) -> None:
        raise error

    await store.world.ok("ADD")
    monkeypatch.setattr("libcalico.workload.lifecycle.detach", fail)
    await store.world.refused("DEL")
    assert len(store.finisher) == is_kept


async def test_a_datastore_that_is_locked_is_kept_and_a_wrong_call_is_not(store: Store) -> None:
    await store.world.ok("ADD")
    await store.world.refused("DEL", program="calico-ipam", conf={"name": ""})
    await store.world.refused("DEL", netns="/host")
    assert len(store.finisher) == 0
    cluster = await store.world.client.get(ClusterInformation, "default")
    locked = replace(cluster, spec=replace(cluster.spec, datastore_ready=False))
    await store.world.client.update(locked)
    shown = await store.world.refused("DEL")
    assert shown["msg"] == "Calico is currently not ready to process requests" and len(store.finisher) == 1


async def test_one_that_fails_stops_no_other_and_is_given_up_after_a_week(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.world.ok("ADD")
    await store.world.ok("ADD", "second", "/box2")
    await store.lose()
    store.is_away = True
    await store.world.refused("DEL", "second", "/box2")
    store.is_away = False

    async def fail(work: Work) -> list[str]:
        if work.identity.workload == ID:
            raise ZeroDivisionError("a mistake of ours")
        return []

    monkeypatch.setattr("libcalico.workload.lifecycle.standing_interfaces", fail)
    await store.finisher.look()
    assert len(store.finisher) == 1 and "a mistake of ours" in store.finisher.problems()[1]
    store.clock.at_s += KEPT.total_seconds() + 1 + LAST_PAUSE_S
    await store.finisher.look()
    assert len(store.finisher) == 0


@pytest.mark.parametrize(
    "content", [b"", b"\xff{", b"[1]", b'{"version": 2}', b"x" * (unfinished.LARGEST + 1), b"[" * 60000]
)
async def test_a_file_that_cannot_be_used_is_given_up(store: Store, content: bytes) -> None:
    store.kept.directory.mkdir(parents=True)
    (store.kept.directory / "bad.json").write_bytes(content)
    await store.finisher.look()
    assert len(store.finisher) == 0


async def test_files_are_bounded_in_size_and_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.is_away = True
    answer = await store.world.call("DEL", args="A=" + "x" * unfinished.LARGEST)
    assert b"cannot be kept" in answer.stderr and b"repeat it" in answer.stderr
    monkeypatch.setattr(unfinished, "MOST", 1)
    await store.world.refused("DEL", "first", "")
    await store.world.refused("DEL", "first", "")
    answer = await store.world.call("DEL", "second", "")
    assert b"holds 1 already: repeat it" in answer.stderr and len(store.finisher) == 1
    (name,) = os.listdir(store.kept.directory)
    assert (store.kept.directory / name).stat().st_mode & 0o777 == 0o600


async def test_a_folder_that_cannot_be_written_is_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / "cni").write_text("")
    store.is_away = True
    answer = await store.world.call("DEL")
    assert json.loads(answer.stdout)["code"] == 11 and b"cannot be kept in" in answer.stderr
    assert len(store.finisher) == 0
