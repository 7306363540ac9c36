"""The datastore's changes on their way to the kernel, with a dataplane that only remembers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from calico_felix.follower import Follower
from calico_felix.settings_source import RestartNeeded
from libcalico.calc.messages import Flush
from libcalico.clock import SystemClock
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Batch, Status, Update
from libcalico.errors import BadData
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey, key_path

CLUSTER_INFORMATION = key_path(ResourceKey("ClusterInformation", "default")).encode()
NOTHING_FED = ("/none",)


class Kernel:
    """A dataplane that only remembers."""

    def __init__(self) -> None:
        self.flushes: list[Flush] = []
        self.links = {"calia"}
        self.programmed_revision = 0

    def on_flush(self, flush: Flush) -> None:
        self.flushes.append(flush)

    def note_revision(self, revision: int) -> None:
        """Nothing to do."""

    def forget_revisions(self) -> None:
        self.programmed_revision = 0


class Settings:
    """Refuses the severity Fatal, and wants a restart for everything else."""

    def reload(self, values: dict[str, str]) -> str:
        if values.get("logSeverityScreen") == "Fatal":
            raise BadData("parameter LogSeverityScreen: 'Fatal' is no severity")
        return f"settings have changed: {', '.join(values)}"


def follower_of(kernel: Kernel) -> Follower:
    clock = SystemClock()
    follower = Follower("here", IpamService(MemoryDatastore(), "here", clock), clock, Settings().reload)
    follower.attach(kernel)
    return follower


def started(*values: tuple[bytes, str], ready: str = '{"spec":{"datastoreReady":true}}') -> tuple[Follower, Kernel]:
    """An agent that has taken in a snapshot."""
    kernel = Kernel()
    follower = follower_of(kernel)
    take_in(follower, (CLUSTER_INFORMATION, ready), *values)
    return follower, kernel


def take_in(follower: Follower, *values: tuple[bytes, str]) -> None:
    """Updates; empty text is a deletion."""
    updates = tuple(Update(key, value.encode() or None, 1) for key, value in values)
    follower.take_in(Batch(updates, Status.IN_SYNC, 1), NOTHING_FED)


@pytest.mark.parametrize("ready", ["", '{"spec":{"datastoreReady":false}}'])
def test_a_datastore_that_is_not_ready_changes_nothing(ready: str) -> None:
    follower, kernel = started(ready=ready)
    with pytest.raises(RestartNeeded, match=r"locked|not initialised any more"):
        follower.flush()
    follower, kernel = started()
    follower.flush()
    take_in(follower, (key_path(ResourceKey("Tier", "default")).encode(), '{"spec":{}}'), (CLUSTER_INFORMATION, ready))
    with pytest.raises(RestartNeeded, match=r"locked|not initialised any more"):
        follower.flush()
    assert len(kernel.flushes) == 1


def test_an_unreadable_cluster_information_leaves_the_former_one_in_force() -> None:
    follower, _ = started()
    follower.flush()
    take_in(follower, (CLUSTER_INFORMATION, "["))
    follower.flush()
    assert "ClusterInformation(default)" in follower.graph.problems


def test_no_restart_while_a_loss_waits_to_be_believed() -> None:
    """The agent that starts would find the object gone, and could not know what it was."""
    tier = key_path(ResourceKey("Tier", "t")).encode()
    settings = key_path(ResourceKey("FelixConfiguration", "default")).encode()
    follower, kernel = started((tier, '{"spec":{"order":1}}'))
    follower.flush()
    take_in(follower, (tier, ""), (settings, '{"spec":{"vxlanPort":4790}}'))
    follower.flush()
    assert len(kernel.flushes) == 2
    take_in(follower, (tier, '{"spec":{"order":1}}'))
    with pytest.raises(RestartNeeded, match="vxlanPort"):
        follower.flush()


def test_a_profile_that_is_about_to_go_is_not_there_for_a_new_container() -> None:
    key = ResourceKey("Profile", "p")
    endpoint = ResourceKey("WorkloadEndpoint", "here-cni-a-eth0", "default")
    spec = '{"spec":{"node":"here","interfaceName":"calia","ipNetworks":["10.0.0.1/32"],"profiles":["p"]}}'
    profile = key_path(key).encode()
    follower, _ = started((profile, '{"spec":{}}'), (key_path(endpoint).encode(), spec))
    follower.flush()
    assert follower.has_profile("p")
    take_in(follower, (profile, ""))
    assert follower.graph.profiles.has("p") and not follower.has_profile("p")


def test_what_goes_all_at_once_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    paths = [key_path(ResourceKey("GlobalNetworkPolicy", name)).encode() for name in "abc"]
    follower, _ = started(*((path, '{"spec":{"selector":"all()"}}') for path in paths))
    follower.flush()
    assert any("node here is not in the datastore" in line for line in follower.unmet())
    take_in(follower, *((path, "") for path in paths))
    follower.flush()
    text = "policy: all objects of this kind (3) are gone from the datastore at once"
    assert text in caplog.text and text in follower.losses()


async def test_a_node_that_is_not_stored_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    follower, _ = started()
    follower.flush()
    assert "node here is not in the datastore" in caplog.text


async def test_a_restored_datastore_begins_with_its_own_revisions() -> None:
    kernel = Kernel()
    follower = follower_of(kernel)

    async def follow(*batches: Batch) -> None:
        async def run() -> AsyncIterator[Batch]:
            for batch in batches:
                yield batch

        await follower.follow(run())

    await follow(Batch((), Status.IN_SYNC, 50))
    follower.graph.flush(follower.revision)
    kernel.programmed_revision = 50
    await follow(Batch((), Status.IN_SYNC, 60))
    assert (follower.revision, kernel.programmed_revision) == (60, 50)
    await follow(Batch((), Status.RESYNC, 60), Batch((), Status.IN_SYNC, 7, snapshot=True))
    assert (follower.revision, follower.graph.revision, kernel.programmed_revision) == (7, 7, 0)


def configuration(text: str) -> tuple[bytes, str]:
    return key_path(ResourceKey("FelixConfiguration", "default")).encode(), text


def test_settings_that_need_it_restart_the_agent() -> None:
    follower, _ = started()
    follower.flush()
    take_in(follower, configuration('{"spec":{"iptablesMarkMask":255}}'))
    with pytest.raises(RestartNeeded, match="settings have changed: iptablesMarkMask"):
        follower.flush()


def test_settings_that_cannot_be_used_leave_the_former_ones_in_force() -> None:
    follower, kernel = started()
    follower.flush()
    take_in(follower, configuration('{"spec":{"logSeverityScreen":"Fatal"}}'))
    follower.flush()
    assert follower.graph.problems["FelixConfiguration"].endswith("is no severity")
    assert len(kernel.flushes) == 2
