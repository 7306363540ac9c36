"""ipam check and ipam release: what is shown, and that nothing in use is ever released."""

from __future__ import annotations

import json
from typing import Any

import pytest

from calicoctl.testing import Outcome, run_calicoctl
from libcalico.client.blocking import Client
from libcalico.datastore.memory import MemoryDatastore
from libcalico.model.resources import ClusterInformation

NOTHING = "Report didn't contain any leaked IPs to clean up.\nReport didn't contain any handles to clean up.\n"


class World:
    """A cluster with a host `a1`, whose addresses 10.61.0.0 (h1, used by c1), .1 (h2) and .2 (h3) are allocated."""

    def __init__(self) -> None:
        self.store = MemoryDatastore()
        self.client = Client(datastore=self.store)
        self.client.ensure_initialized()
        self.client.create(
            {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.61.0.0/28", "blockSize": 29}}
        )
        self.client.create({"kind": "Node", "metadata": {"name": "a1"}})
        for number in (1, 2, 3):
            self.assign(f"10.61.0.{number - 1}", f"h{number}")
        self.use("c1", "10.61.0.0")
        self.reports: dict[str, str] = {}

    def assign(self, address: str, handle: str) -> None:
        self.client.ipam.assign_ip(address, handle, {"node": "a1"}, host="a1")

    def use(self, container: str, address: str) -> None:
        spec = {"node": "a1", "orchestrator": "cni", "containerID": container, "endpoint": "eth0",
                "interfaceName": f"cali{container}", "ipNetworks": [f"{address}/32"]}  # fmt: skip
        self.client.create({"kind": "WorkloadEndpoint", "metadata": {"namespace": "default"}, "spec": spec})

    def put(self, path: str, value: Any) -> None:
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.client._run(self.store.put(path.encode(), text))

    def run(self, line: str) -> Outcome:
        """A command line, with the reports so far as files."""
        return run_calicoctl(self.store, line.split(), self.reports)

    def report(self, name: str, **changes: Any) -> dict[str, Any]:
        """Take a report, with members changed."""
        from calicoctl import ipam_report, session

        found = json.loads(ipam_report.encode(self.client.ipam.check(), session.CLIENT_VERSION))
        self.reports[name] = json.dumps({**found, **changes})
        return dict(found)

    def lock(self, locked: bool = True) -> None:
        """As upstream's `datastore migrate lock` does."""
        stored = self.client.get(ClusterInformation, "default")
        self.client.update({
            "kind": "ClusterInformation",
            "metadata": {"name": "default", "uid": stored.metadata.uid, "resourceVersion":
                         stored.metadata.resource_version, "creationTimestamp": stored.metadata.creation_timestamp},
            "spec": {"clusterGUID": stored.spec.cluster_guid, "datastoreReady": not locked},
        })  # fmt: skip

    def held(self) -> dict[str, str]:
        """Every allocated address and its handle."""
        return {one.address: one.handle for one in self.client.ipam.check().allocations}


@pytest.fixture
def world() -> Any:
    made = World()
    with made.client:
        yield made


def test_check_prints_every_step(world: World) -> None:
    world.put("/calico/ipam/v2/handle/stale", {"block": {}})
    world.use("c9", "10.9.9.9")
    world.use("c8", "10.61.0.9")
    done = world.run("ipam check --show-problem-ips")
    assert (done.status, done.stderr) == (0, "")
    assert (
        done.stdout
        == """\
Checking IPAM for inconsistencies...

Loading all IPAM blocks...
Found 1 IPAM blocks.
 IPAM block 10.61.0.0/29 affinity=host:a1:
IPAM blocks record 3 allocations.

Loading all IPAM pools...
  10.61.0.0/28
Found 1 active IP pools.

Loading all nodes.
Found 0 node tunnel IPs.

Loading all workload endpoints.
Found 3 workload IPs.
Workloads and nodes are using 3 IPs.

Loading all handles
Looking for top (up to 20) nodes by allocations...
  a1 has 3 allocations
Node with most allocations has 3; median is 3

Scanning for IPs that are allocated but not actually in use...
  10.61.0.1 leaked; attrs Main:h2 Extra:node=a1
  10.61.0.2 leaked; attrs Main:h3 Extra:node=a1
Found 2 IPs that are allocated in IPAM but not actually in use.
Scanning for IPs that are in use by a workload or node but not allocated in IPAM...
  10.9.9.9 in use by Workload(default/a1-cni-c9-eth0) is not in any active IP pool.
  10.61.0.9 in use by Workload(default/a1-cni-c8-eth0) and in active IPAM pool but has no IPAM allocation.
Found 1 in-use IPs that are not in active IP pools.
Found 1 in-use IPs that are in active IP pools but have no corresponding IPAM allocation.

Scanning for IPAM handles with no matching IPs...
  stale doesn't have any active IPs.
Found 1 handles with no matching IPs (and 3 handles with matches).
Scanning for IPs with missing handle...
Found 0 handles mentioned in blocks with no matching handle resource.
Validating IPAMBlock structures...
Found 0 invalid IPAMBlocks.
Check complete; found 5 problems.
"""
    )


def test_check_shows_all_addresses(world: World) -> None:
    lines = world.run("ipam check --show-all-ips").stdout.splitlines()
    assert "  10.61.0.0 allocated; attrs Main:h1 Extra:node=a1" in lines
    assert "  10.61.0.0 belongs to Workload(default/a1-cni-c1-eth0)" in lines
    assert "  10.61.0.1 leaked; attrs Main:h2 Extra:node=a1" in lines


def test_check_counts_broken_blocks_and_missing_handles(world: World) -> None:
    world.put("/calico/ipam/v2/assignment/ipv4/block/10.61.0.8-29", b"{")
    world.client.ipam.drop_handle("h1", world.client.ipam.check().handles["h1"])
    lines = world.run("ipam check --show-problem-ips").stdout.splitlines()
    assert " IPAM block 10.61.0.8/29 affinity=<none>:" in lines
    assert "  h1 is in use in a block but doesn't exist." in lines
    assert [line for line in lines if line.startswith("  10.61.0.8/29: ")] != []
    assert lines[-3:] == ["  10.61.0.8/29: Input data was truncated", "Found 1 invalid IPAMBlocks.",
                          "Check complete; found 3 problems."]  # fmt: skip


def test_check_names_an_endpoint_that_cannot_be_read(world: World) -> None:
    path = "/calico/resources/v3/projectcalico.org/workloadendpoints/default/broken"
    world.put(path, b"{")
    assert world.run("ipam check").stderr == f"warning: {path} cannot be read: what it uses counts as leaked\n"


def test_the_report_is_upstreams(world: World, tmp_path: Any) -> None:
    world.put("/calico/ipam/v2/handle/stale", {"block": {}})
    assert world.run(f"ipam check -o {tmp_path}/r.json").status == 0
    found = json.loads((tmp_path / "r.json").read_text())
    information = world.client.get(ClusterInformation, "default")
    leaked = found["allocations"].pop("10.61.0.1")
    assert leaked == [
        {"ip": "10.61.0.1", "handle": "h2", "sequenceNumber": leaked[0]["sequenceNumber"], "node": "a1",
         "inUse": False, "owners": []}
    ]  # fmt: skip
    assert leaked[0]["sequenceNumber"] > 2**53
    assert found["allocations"]["10.61.0.0"][0]["owners"] == ["Workload(default/a1-cni-c1-eth0)"]
    assert found["leakedHandles"] == [
        {"ID": "stale", "UID": None, "Revision": str(world.client.ipam.check().handles["stale"])}
    ]
    assert {name: found[name] for name in found if name not in ("allocations", "leakedHandles")} == {
        "version": "v3.32.1",
        "clusterGUID": information.spec.cluster_guid,
        "datastoreLocked": False,
        "clusterInformationRevision": information.metadata.resource_version,
        "clusterType": "",
    }


def test_a_report_that_cannot_be_written_is_an_error(world: World) -> None:
    refused = world.run("ipam check -o nowhere/r.json")
    assert (refused.status, refused.stderr) == (1, "open nowhere/r.json: no such file or directory\n")


@pytest.mark.parametrize("address", ["10.78.3.0/29", "10.61.0.1/32", "nonsense", "", "10.61.0", "fe80::1%eth0"])
def test_an_address_to_release_is_one_address(world: World, address: str) -> None:
    refused = run_calicoctl(world.store, ["ipam", "release", f"--ip={address}"], {})
    assert refused == (1, f"Error executing command: invalid IP address specified: {address}\n", "")
    assert len(world.held()) == 3


def test_an_ipv4_address_in_ipv6s_clothes_is_shown_as_ipv4(world: World) -> None:
    shown = world.run("ipam show --ip=::ffff:192.0.2.1")
    assert shown == (0, "192.0.2.1 is not assigned\n", "")


def test_a_report_on_a_full_disk_is_an_error(world: World) -> None:
    refused = world.run("ipam check -o /dev/full")
    assert (refused.status, refused.stderr) == (1, "write /dev/full: no space left on device\n")


def test_a_released_address_that_is_used_is_told_to_people(world: World) -> None:
    done = world.run("-l error ipam release --ip=10.61.0.0")
    assert done.stdout == "Successfully released IP address 10.61.0.0\n"
    assert done.stderr == (
        "Workload(default/a1-cni-c1-eth0) goes on using 10.61.0.0: it may be given to another container now\n"
    )
    assert world.run("-l error ipam release --ip=10.61.0.1").stderr == ""


def test_one_address_is_released(world: World) -> None:
    assert world.run("ipam release --ip=10.61.0.1") == (0, "Successfully released IP address 10.61.0.1\n", "")
    assert world.run("ipam release --ip=10.61.0.1") == (1, "", "IP address 10.61.0.1 is not assigned\n")
    assert world.run("ipam release") == (0, "", "")
    assert sorted(world.held()) == ["10.61.0.0", "10.61.0.2"]


def test_what_a_report_calls_leaked_is_released_with_its_handles(world: World) -> None:
    world.put("/calico/ipam/v2/handle/stale", {"block": {}})
    world.lock()
    world.report("r.json")
    assert world.run("ipam release --from-report=r.json") == (0, """\
Releasing 2 old IPs...
Released 2 IPs successfully
Deleting 1 handles...
Key: '.' = Deleted OK; 'x' = skip, handle missing/changed.
.
Released 1 handles; 0 skipped; 0 errors.
You may now unlock the data store.
""", "")  # fmt: skip
    assert world.held() == {"10.61.0.0": "h1"}
    assert set(world.client.ipam.check().handles) == {"h1"}
    world.report("r.json")
    assert world.run("ipam release --from-report=r.json").stdout == NOTHING + "You may now unlock the data store.\n"


def test_what_was_assigned_again_or_is_used_since_stays(world: World) -> None:
    world.put("/calico/ipam/v2/handle/stale", {"block": {}})
    world.report("r.json")
    world.client.ipam.release_ips(["10.61.0.1"])
    world.assign("10.61.0.1", "h2")  # the same handle as before: only the sequence number tells
    world.use("c3", "10.61.0.2")
    world.put("/calico/ipam/v2/handle/stale", {"block": {"10.61.0.0/29": 1}})
    done = world.run("ipam release --from-report=r.json --force")
    assert done == (0, """\
WARNING: Data store is not locked. Ignoring due to --force option
Releasing 2 old IPs...
Released 0 IPs successfully
1 addresses marked as leaked in the report are in use now: they stay.
1 addresses marked as leaked in the report had already been cleaned up.
Deleting 1 handles...
Key: '.' = Deleted OK; 'x' = skip, handle missing/changed.
x
Released 0 handles; 1 skipped; 0 errors.
You may now unlock the data store.
""", "")  # fmt: skip
    assert world.held() == {"10.61.0.0": "h1", "10.61.0.1": "h2", "10.61.0.2": "h3"}


def test_an_address_that_changes_hands_during_the_release_spoils_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.report("r.json")
    check = type(world.client.ipam).check

    def then_reassigned(ipam: Any) -> Any:
        found = check(ipam)
        world.client.ipam.release_ips(["10.61.0.1"])
        world.assign("10.61.0.1", "h2")
        return found

    monkeypatch.setattr(type(world.client.ipam), "check", then_reassigned)
    done = world.run("ipam release --from-report=r.json --force").stdout.splitlines()
    monkeypatch.undo()
    assert done[2:4] == ["Released 1 IPs successfully",
                         "1 addresses marked as leaked in the report had already been cleaned up."]  # fmt: skip
    assert world.held() == {"10.61.0.0": "h1", "10.61.0.1": "h2"}


def test_only_what_all_reports_call_leaked_is_released(world: World) -> None:
    world.report("one.json")
    world.client.ipam.release_ips(["10.61.0.1"])
    world.assign("10.61.0.1", "h2")
    world.report("two.json")
    done = world.run("ipam release --from-report=one.json --from-report=two.json --force").stdout.splitlines()
    assert done[1:3] == ["Releasing 1 old IPs...", "Released 1 IPs successfully"]
    assert world.held() == {"10.61.0.0": "h1", "10.61.0.1": "h2"}


@pytest.mark.parametrize("force", ["", " --force"])
def test_a_report_of_another_cluster_is_never_used(world: World, force: str) -> None:
    world.report("r.json", clusterGUID="x")
    refused = "cluster does not match the provided report (r.json): mismatched cluster GUID. Refusing to release\n"
    assert world.run(f"ipam release --from-report=r.json{force}") == (1, "", refused)


def test_an_open_datastore_is_released_from_by_force_only(world: World) -> None:
    world.report("r.json")
    refused = "data store is not locked. Either lock the data store, or re-run with --force\n"
    assert world.run("ipam release --from-report=r.json") == (1, "", refused)
    assert len(world.held()) == 3


def test_another_releases_report_is_used_by_force_only(world: World) -> None:
    world.lock()
    world.report("r.json", version="v3.31.0")
    refused = ("the provided report (r.json) was produced using a different version (v3.31.0) of calicoctl. Refusing"
               " to release\n")  # fmt: skip
    assert world.run("ipam release --from-report=r.json") == (1, "", refused)
    forced = world.run("ipam release --from-report=r.json --force")
    assert forced.stdout.startswith("WARNING: Report was produced using a different version of calicoctl.")
    assert world.held() == {"10.61.0.0": "h1"}


def test_one_report_must_be_new(world: World) -> None:
    world.report("r.json")
    world.lock()
    refused = world.run("ipam release --from-report=r.json --force")
    assert (refused.status, refused.stderr.partition(" - ")[0]) == (1, "the provided reports are all stale")
    world.report("new.json")
    assert world.run("ipam release --from-report=r.json --from-report=new.json").status == 0
    assert world.held() == {"10.61.0.0": "h1"}


def test_what_cannot_be_read_may_be_what_uses_an_address(world: World) -> None:
    world.lock()
    world.put("/calico/resources/v3/projectcalico.org/workloadendpoints/default/broken", b"{")
    world.report("r.json")
    refused = world.run("ipam release --from-report=r.json")
    assert (refused.status, refused.stderr.partition(" (")[0]) == (
        1,
        "1 endpoints or nodes cannot be read, so what they use is unknown",
    )
    assert len(world.held()) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("[]", "its members are not those of a report"),
        ('{"allocations":{"10.0.0.1":[{"inUse":false}]}}', "member 'ip' is missing"),
        ("[" * 99999, "its members are not those of a report"),
    ],
)
def test_a_file_that_is_no_report_says_so(world: World, text: str, reason: str) -> None:
    world.reports["r.json"] = text
    refused = world.run("ipam release --from-report=r.json")
    assert (refused.status, refused.stderr) == (1, f"r.json is no report of 'ipam check': {reason}\n")
