"""A host stays with the cluster that it was prepared for, whatever a datastore says that was initialised again."""

from __future__ import annotations

from pathlib import Path

import pytest

from calico_felix.follower import Follower
from calico_felix.identity import FILE, ClusterIdentity
from calico_felix.settings_source import RestartNeeded
from libcalico.clock import SystemClock
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.syncer import Batch, Status, Update
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ResourceKey, key_path

INFORMATION = key_path(ResourceKey("ClusterInformation", "default")).encode()


class Kernel:
    """A dataplane that takes everything."""

    links = ()

    def on_flush(self, _flush: object) -> None:
        pass

    def note_revision(self, _revision: int) -> None:
        pass

    def forget_revisions(self) -> None:
        pass


def followed(folder: Path, guid: str, follower: Follower | None = None, revision: int = 5) -> Follower:
    """An agent of this host that has taken in a datastore of this cluster."""
    if follower is None:
        clock = SystemClock()
        ipam = IpamService(MemoryDatastore(), "here", clock)
        follower = Follower("here", ipam, clock, lambda _values: "", ClusterIdentity(str(folder)))
        follower.attach(Kernel())
    value = f'{{"spec":{{"datastoreReady":true,"clusterGUID":"{guid}"}}}}'.encode()
    follower.take_in(Batch((Update(INFORMATION, value, revision),), Status.IN_SYNC, revision, True), ("/none",))
    follower.flush()
    return follower


def test_the_first_cluster_is_kept_and_another_one_is_not_followed(tmp_path: Path) -> None:
    follower = followed(tmp_path, "a" * 32)
    assert (tmp_path / FILE).read_text() == "a" * 32
    with pytest.raises(
        RestartNeeded, match=f"of another cluster .clusterGUID {'b' * 32}; this host belongs to {'a' * 32}"
    ):
        followed(tmp_path, "b" * 32, follower, revision=9)
    with pytest.raises(RestartNeeded, match=f"remove {tmp_path / FILE}"):
        followed(tmp_path, "b" * 32)
    assert (tmp_path / FILE).read_text() == "a" * 32
    followed(tmp_path, "a" * 32)
    (tmp_path / FILE).unlink()
    followed(tmp_path, "b" * 32)
    assert (tmp_path / FILE).read_text() == "b" * 32


def test_a_datastore_that_names_no_cluster_is_followed(tmp_path: Path) -> None:
    followed(tmp_path, "")
    assert not (tmp_path / FILE).exists()
    followed(tmp_path, "a" * 32)
    followed(tmp_path, "")
    assert (tmp_path / FILE).read_text() == "a" * 32


def test_a_file_that_cannot_be_had_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).mkdir()
    followed(tmp_path, "a" * 32)
    assert "cannot be read: whatever cluster the datastore is of is taken" in caplog.text
    assert "the cluster's identity is not kept: " in caplog.text
    followed(Path("/proc/nowhere"), "a" * 32)


def test_a_guid_with_blanks_is_the_same_after_a_restart(tmp_path: Path) -> None:
    ClusterIdentity(str(tmp_path)).keep("abc\n")
    assert ClusterIdentity(str(tmp_path)).objection("abc\n") == ""
    assert "of another cluster" in ClusterIdentity(str(tmp_path)).objection("other")
