"""The CNI handler over the datastore in memory and a kernel that only remembers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from libcalico.cni import CniAnswer, CniRequestData, handle
from libcalico.datastore.contract import Delete, Put
from libcalico.errors import DatastoreError
from libcalico.ipam.service import IpamService
from libcalico.kernel.errors import KernelError
from libcalico.model.codec import from_input
from libcalico.model.resources import ClusterInformation, IPPool, Profile, WorkloadEndpoint
from libcalico.testing.cni_world import ID, NODE, World


@pytest.fixture(params=[False, True], ids=["alone", "agent"])
async def world(request: pytest.FixtureRequest) -> World:
    """Without an agent whose view spares requests, and with one."""
    made = World()
    made.has_agent = request.param
    await made.start()
    return made


async def test_add_waits_for_policy_and_del_takes_everything_back(world: World) -> None:
    shown = await world.ok("ADD")
    assert shown["ips"] == [{"version": "4", "interface": 1, "address": "172.29.0.0/32"}]
    (endpoint,) = await world.endpoints()
    assert world.waited == [endpoint.metadata.name]
    assert endpoint.spec.interface_name == "cali5f0c9e11-2b"
    assert endpoint.spec.profiles == ["calico"]
    assert (await world.client.get(Profile, "calico")).spec.labels_to_apply == {"calico": ""}
    assert await world.ok("DEL") is None
    assert await world.is_clean()
    assert await world.ok("DEL") is None


@pytest.mark.parametrize("error", [TimeoutError(), DatastoreError("policy engine away")])
async def test_policy_that_does_not_come_closes_the_door_and_leaves_nothing(world: World, error: Exception) -> None:
    world.wait_error = error
    shown = await world.refused("ADD")
    assert shown["code"] == 11
    assert await world.is_clean()


@pytest.mark.parametrize("stage", ["attach", "endpoint", "profile"])
async def test_a_failure_at_any_stage_leaves_nothing(world: World, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: object) -> None:
        raise DatastoreError("etcd went away")

    if stage == "attach":
        world.kernel.fail = KernelError("create link eth0", 12)
    else:
        name = {"endpoint": "create_endpoint", "profile": "ensure_profile"}[stage]
        monkeypatch.setattr(f"libcalico.workload.endpoint.{name}", broken)
        if world.has_agent and stage == "endpoint":
            monkeypatch.setattr(world.store, "txn", broken)
    await world.refused("ADD")
    monkeypatch.undo()
    assert await world.is_clean()


async def test_a_bug_is_told_with_its_stack(world: World) -> None:
    world.kernel.fail = ZeroDivisionError("oops")
    shown = await world.refused("ADD")
    assert (shown["code"], shown["msg"]) == (999, "Calico CNI panicked during ADD: ZeroDivisionError('oops')")
    assert "Traceback" in shown["details"]
    assert await world.is_clean()


async def test_a_caller_that_goes_away_leaves_nothing(world: World) -> None:
    """It ends what it is at, and then undoes it: the next call may begin only afterwards."""
    world.kernel.pause_s = 0.1
    task = asyncio.ensure_future(world.call("ADD"))
    while not await world.held():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.is_clean()


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
async def test_a_caller_that_goes_away_while_its_endpoint_is_stored_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Address and endpoint are committed, and the answer is still on its way."""
    world.has_agent, txn, written = True, world.store.txn, asyncio.Event()
    await world.ok("ADD", "warm", "/box2")
    await world.ok("DEL", "warm", "/box2")

    async def slow(*arguments: Any) -> Any:
        answer = await txn(*arguments)
        if await world.endpoints():
            written.set()
        await asyncio.sleep(0.05)
        return answer

    monkeypatch.setattr(world.store, "txn", slow)
    task = asyncio.ensure_future(world.call("ADD"))
    await written.wait()
    task.cancel()
    if again:  # the call's own time limit, say, after its caller has gone
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        while not await world.is_clean():
            await asyncio.sleep(0.01)


async def test_an_endpoint_whose_storing_was_not_confirmed_goes_with_its_addresses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two address families, so that addresses and endpoint are not stored at once; etcd's answer is lost."""
    await world.client.create(
        from_input({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "six"},
                    "spec": {"cidr": "fd00::/64", "blockSize": 122}})
    )  # fmt: skip
    txn = world.store.txn

    async def lossy(compares: Any, success: Any, failure: Any = ()) -> Any:
        answer = await txn(compares, success, failure)
        if answer.succeeded and any(isinstance(one, Put) and b"/workloadendpoints/" in one.key for one in success):
            monkeypatch.undo()
            raise DatastoreError("the answer is lost")
        return answer

    monkeypatch.setattr(world.store, "txn", lossy)
    await world.refused("ADD", ipam={"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"})
    assert await world.is_clean()


async def test_an_endpoint_that_the_agent_has_not_heard_of_is_not_overwritten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.ok("ADD")
    (before,) = await world.endpoints()
    await world.kernel.detach("/box", "eth0", [])
    world.has_agent = True
    monkeypatch.setattr(world.host, "is_unused", lambda _name: True)
    await world.ok("ADD")
    (after,) = await world.endpoints()
    assert (after.metadata.uid, after.spec.ip_networks) == (before.metadata.uid, before.spec.ip_networks)
    assert len(await world.held()) == 1


async def test_an_agent_spares_requests(world: World) -> None:
    async def go_on(key: Any, revision: int, timeout_s: float) -> None:
        return None

    world.has_agent = True
    ipam = IpamService(world.store, NODE)
    followed = ipam.follow()

    def watch() -> None:
        for kv in world.now():
            if kv.key.decode().startswith(followed):
                ipam.observe(kv.key.decode(), kv.value, kv.mod_revision)

    watch()
    world.host.open_ipam = lambda client, node: ipam  # type: ignore[method-assign]
    world.host.has_profile = lambda name: True  # type: ignore[method-assign]
    world.host.datastore_ready = lambda: True  # type: ignore[method-assign]
    world.host.wait_programmed = go_on  # type: ignore[method-assign]
    await world.ok("ADD", "warm", "/box2")
    watch()
    before = world.store.requests
    await world.ok("ADD")
    assert world.store.requests - before == 1, "addresses, handle and endpoint are one transaction"
    before = world.store.requests
    await world.ok("DEL")
    assert world.store.requests - before == 2, "the container's endpoints are looked up, then all goes at once"


async def test_etcd_down_is_try_again_later(world: World) -> None:
    world.connect_error = DatastoreError("no endpoint answers")
    for command in ("ADD", "DEL"):
        shown = await world.refused(command)
        assert shown["code"] == 11
        assert "no endpoint answers" in shown["msg"]
    assert (await world.refused("STATUS", cniVersion="1.1.0"))["code"] == 50


async def test_repeated_adds_of_one_attachment_are_one(world: World) -> None:
    first = await world.ok("ADD")
    again = await world.ok("ADD")
    assert again == first
    assert len(await world.held()) == 1


async def test_two_adds_at_once_of_one_attachment_are_one(world: World) -> None:
    world.kernel.pause_s = 0.02
    first, second = await asyncio.gather(world.ok("ADD"), world.ok("ADD"))
    assert first == second
    assert len(await world.endpoints()) == len(await world.held()) == 1


async def test_interfaces_of_one_container_are_endpoints_of_their_own(world: World) -> None:
    world.kernel.pause_s = 0.02
    await asyncio.gather(world.ok("ADD"), world.ok("ADD", interface="eth1"))
    assert len(await world.endpoints()) == len(await world.held()) == len(world.kernel.host) == 2
    await world.ok("DEL", interface="eth0")
    (left,) = await world.endpoints()
    assert left.spec.endpoint == "eth1"
    assert await world.held() == {left.spec.ip_networks[0].partition("/")[0]}
    assert set(world.kernel.host) == {left.spec.interface_name}
    await world.ok("DEL", interface="eth1")
    assert await world.is_clean()


async def test_containers_that_share_eleven_characters_do_not_share_an_interface(world: World) -> None:
    world.kernel.pause_s = 0.02
    await asyncio.gather(world.ok("ADD", "abcdefghijk-1", "/box1"), world.ok("ADD", "abcdefghijk-2", "/box2"))
    assert len(world.kernel.host) == 2
    await world.ok("ADD", "abcdefghijk-3", "/box3")
    assert len(world.kernel.host) == 3
    await world.ok("DEL", "abcdefghijk-1", "/box1")
    assert len(world.kernel.host) == len(await world.endpoints()) == 2


async def test_a_container_whose_id_begins_with_anothers_is_not_it(world: World) -> None:
    await world.ok("ADD", "a-b", "/box1")
    await world.ok("ADD", "a", "/box2")
    assert len(await world.endpoints()) == 2
    await world.ok("DEL", "a", "/box2")
    (left,) = await world.endpoints()
    assert left.spec.container_id == "a-b"


async def test_nested_mesos_containers_work(world: World) -> None:
    await world.ok("ADD", f"{ID}.child", cniVersion="0.1.0")
    await world.ok("ADD", ID, "/box2", cniVersion="0.1.0")
    assert len(world.kernel.host) == 2
    await world.ok("DEL", f"{ID}.child")
    await world.ok("DEL", ID, "/box2")
    assert await world.is_clean()


async def test_del_without_netns_takes_the_host_interface(world: World) -> None:
    await world.ok("ADD")
    await world.ok("DEL", netns="")
    assert await world.is_clean()


async def test_del_after_a_killed_add_that_stored_no_endpoint(world: World) -> None:
    await world.ok("ADD")
    (endpoint,) = await world.endpoints()
    await world.client.delete(WorkloadEndpoint, endpoint.metadata.name, "default")
    await world.ok("DEL", netns="")
    assert await world.is_clean()


async def test_del_under_another_network_name_takes_endpoint_and_address(world: World) -> None:
    await world.ok("ADD")
    await world.ok("DEL", name="renamed")
    assert await world.is_clean()


async def test_del_under_another_node_name(world: World, tmp_path: Any) -> None:
    await world.ok("ADD")
    (tmp_path / "nodename").write_text(f"{NODE}\n")
    await world.ok("DEL", nodename="new-name", nodename_file=str(tmp_path / "nodename"))
    assert await world.is_clean()


async def test_a_nodename_file_that_has_no_end_or_writer_keeps_no_one_waiting(world: World, tmp_path: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    for number, path in enumerate((str(tmp_path / "pipe"), "/dev/zero", str(tmp_path), "a\0b")):
        async with asyncio.timeout(5):
            answer = await world.call("ADD", f"c{number}", f"/box{number}", nodename="", nodename_file=path)
        assert b"panicked" not in answer.stdout


@pytest.mark.parametrize("stored", [True, False])
async def test_del_without_any_node_name_goes_by_the_hosts_addresses(world: World, stored: bool) -> None:
    await world.ok("ADD")
    if not stored:
        (endpoint,) = await world.endpoints()
        await world.client.delete(WorkloadEndpoint, endpoint.metadata.name, "default")
    unnamed = {"nodename": "", "nodename_file": "/nowhere", "nodename_file_optional": False}
    assert "stat /nowhere" in (await world.refused("ADD", "c2", "/box2", **unnamed))["msg"]
    await world.ok("DEL", **unnamed)
    assert await world.is_clean()


async def test_del_of_the_same_id_on_another_host_touches_nothing(world: World) -> None:
    await world.ok("ADD")
    await world.client.create(
        from_input({"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "far"}, "spec": {}})
    )
    world.kernel.host.clear()
    world.kernel.boxes.clear()
    await world.ok("ADD", "c2", "/box2", nodename="far")
    answer = await world.call("DEL", "c2", "/box9", nodename="elsewhere", nodename_file="/nowhere")
    assert (answer.exit_code, b"names node far: nothing shows that it is this host's" in answer.stderr) == (0, True)
    assert len(await world.held()) == 2


async def test_del_goes_on_past_what_it_does_not_need(world: World) -> None:
    await world.ok("ADD")
    answer = await world.call("DEL", args="nonsense", ipam={}, mtu="x")
    assert answer.exit_code == 0
    for text in (b"CNI_ARGS ignored", b"mtu is 'x', wanted integer: ignored", b"ipam.type"):
        assert text in answer.stderr
    assert await world.is_clean()


async def test_a_further_network_shares_the_interface_until_its_own_del(world: World) -> None:
    await world.ok("ADD")
    shown = await world.ok("ADD", name="other")
    assert shown["ips"][0]["address"] == "172.29.0.0/32"
    (endpoint,) = await world.endpoints()
    assert endpoint.spec.profiles == ["calico", "other"]
    await world.ok("DEL", name="other")
    (endpoint,) = await world.endpoints()
    assert endpoint.spec.profiles == ["calico"]
    await world.ok("DEL")
    assert await world.is_clean()


async def test_an_endpoint_whose_interface_is_gone_is_made_whole(world: World) -> None:
    await world.ok("ADD")
    world.kernel.host.clear()
    world.kernel.boxes.clear()
    shown = await world.ok("ADD", netns="/reborn")
    assert shown["ips"][0]["address"] == "172.29.0.0/32"
    assert set(world.kernel.boxes) == {("/reborn", "eth0")}


async def test_an_endpoint_of_a_living_other_namespace_is_refused(world: World) -> None:
    await world.ok("ADD")
    shown = await world.refused("ADD", netns="/other")
    assert "is in use by another network namespace" in shown["msg"]
    assert len(await world.endpoints()) == 1


async def test_a_stored_address_that_ipam_does_not_know_is_taken_again(world: World) -> None:
    await world.ok("ADD")
    await IpamService(world.store, NODE).release_ips(["172.29.0.0"])
    await world.ok("ADD")
    assert await world.held() == {"172.29.0.0"}


async def test_a_stored_address_that_another_holds_is_refused(world: World) -> None:
    await world.ok("ADD")
    ipam = IpamService(world.store, NODE)
    await ipam.release_ips(["172.29.0.0"])
    await ipam.assign_ip("172.29.0.0", "calico.somebody", {"node": NODE})
    assert "belongs to calico.somebody" in (await world.refused("ADD"))["msg"]


async def test_addresses_of_another_node_with_the_same_container_id_stay(world: World) -> None:
    await world.ok("ADD")
    other = IpamService(world.store, "other-node")
    await other.assign_ip("172.29.0.40", f"calico.{ID}", {"node": "other-node"})
    await world.ok("DEL")
    assert await world.held() == {"172.29.0.40"}


async def test_an_address_whose_handle_index_is_lost_is_released_all_the_same(world: World) -> None:
    await world.ok("ADD")
    await world.store.txn([], [Delete(f"/calico/ipam/v2/handle/calico.{ID}".encode())])
    await world.ok("DEL")
    assert await world.is_clean()


async def test_a_full_pool_says_so(world: World) -> None:
    small = World()
    await small.start("172.29.1.0/31")
    for number in range(2):
        await small.ok("ADD", f"c{number}", f"/box{number}")
    shown = await small.refused("ADD", "c2", "/box2")
    assert shown["msg"].startswith("failed to request IPv4 addresses: Assigned 0 out of 1 requested IPv4 addresses")
    assert len(await small.endpoints()) == 2


@pytest.mark.parametrize(
    ("conf", "args", "code", "text"),
    [
        ({"name": "MyNet"}, "", 999, "error with field"),
        ({"name": "x" * 64}, "", 999, "error with field"),
        ({"mtu": -1}, "", 999, "mtu -1 is out of range"),
        ({"runtimeConfig": {"mac": "zz"}}, "", 999, "'zz' is not the MAC of an interface"),
        ({}, "MAC=01:00:5e:00:00:01", 999, "not a group address"),
        ({"runtimeConfig": {"mac": "00:00:00:00:00:00"}}, "", 999, "not all zero"),
        ({"num_queues": 4097}, "", 999, "num_queues 4097 is out of range: at most 4096"),
        ({"num_queues": 2**40}, "", 999, "is out of range: at most 4096"),
        ({"mtu": 1200, "ipam": {"type": "calico-ipam", "assign_ipv6": "true"}}, "", 999, "1280 to 65535 with IPv6"),
        ({"ipam": {}}, "", 999, "no plugin name provided"),
        ({"ipam": {"type": "nope"}}, "", 999, 'failed to find plugin "nope" in path [/opt/cni]'),
        ({"ipam": {"type": "../../bin/sh"}}, "", 999, "failed to find plugin"),
        ({"ipam": {"type": "calico-ipam", "ipv4_pools": ["nix"]}}, "", 999, 'error parsing pool "nix"'),
        ({"ipam": {"type": "calico-ipam", "ipv4_pools": ["10.0.0.0/33"]}}, "", 999, "invalid CIDR address"),
        ({"ipam": {"type": "calico-ipam", "assign_ipv4": "false"}}, "", 999, "returned no IP addresses"),
        ({"dataplane_options": {"type": "grpc"}}, "", 999, "invalid dataplane type: grpc"),
        ({"device_type": "x"}, "", 999, 'unknown device_type "x"'),
        ({"readiness_gates": ["nope"]}, "", 999, "invalid URL set for ReadinessGates"),
        ({"feature_control": {"ip_addrs_no_ipam": True}}, "", 999, "requested feature is not supported"),
        ({}, "IP=999.1.1.1", 999, 'ARGS: error parsing value of pair "IP=999.1.1.1"'),
        ({}, "IP=10.99.0.1", 999, "The provided IP address is not in a configured pool"),
        ({"ipam": {"type": "calico-ipam", "ipv4_pools": ["172.29.0.32/27"]}}, "IP=172.29.0.1", 999, "is in none of"),
        (
            {"nodename": "", "nodename_file_optional": False, "nodename_file": "/nowhere"},
            "",
            999,
            "stat /nowhere: no such",
        ),
    ],
)
async def test_what_can_be_refused_is_refused_before_any_effect(
    world: World, conf: dict[str, Any], args: str, code: int, text: str
) -> None:
    shown = await world.refused("ADD", args=args, **conf)
    assert shown["code"] == code
    assert text in shown["msg"]
    assert await world.is_clean()


@pytest.mark.parametrize(
    ("kwargs", "code", "text"),
    [
        ({"netns": "/host"}, 8, "plugin's netns and netns from CNI_NETNS should not be the same"),
        ({"netns": "/nowhere"}, 999, "failed to open netns"),
        ({"container": "UPPER"}, 999, "error with field"),
        ({"container": "under_score"}, 999, "error with the following fields"),
        ({"container": "ends-"}, 999, "must not end with a '-'"),
    ],
)
async def test_bad_targets_are_refused_before_any_effect(
    world: World, kwargs: dict[str, Any], code: int, text: str
) -> None:
    shown = await world.refused("ADD", **kwargs)
    assert (shown["code"], text in shown["msg"]) == (code, True), shown
    assert await world.is_clean()


async def test_fixed_addresses_by_every_convention(world: World) -> None:
    shown = await world.ok("ADD", args="IP=172.29.0.9")
    assert shown["ips"][0]["address"] == "172.29.0.9/32"
    taken = await world.refused("ADD", "c2", "/box2", args="IP=172.29.0.9")
    assert taken["msg"] == "resource already exists: 172.29.0.9 with error: Address already assigned in block"
    shown = await world.ok("ADD", "c3", "/box3", runtimeConfig={"ips": ["172.29.0.11/26"]})
    assert shown["ips"][0]["address"] == "172.29.0.11/32"


async def test_mesos_labels_namespace_and_pools(world: World) -> None:
    await world.client.create(
        from_input(
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "IPPool",
                "metadata": {"name": "green"},
                "spec": {"cidr": "172.30.0.0/26", "nodeSelector": "!all()"},
            }
        )
    )
    info = {
        "ip_addresses": [{}],
        "labels": {
            "labels": [
                {"key": "role", "value": "web"},
                {"key": "team/owner", "value": "a b"},
                {"key": "DCOS_SPACE", "value": "/" + "x" * 70},
                {"key": "projectcalico.org/namespace", "value": "Team/A"},
                {"key": "projectcalico.org/ipv4pools", "value": '["green"]'},
            ]
        },
    }
    conf = {"args": {"org.apache.mesos": {"network_info": info}}}
    answer = await mesos(world, "ADD", conf)
    assert json.loads(answer.stdout) == {"cniVersion": "0.1.0", "ip4": {"ip": "172.30.0.0/32"}, "dns": {}}
    (endpoint,) = await world.endpoints()
    assert endpoint.metadata.namespace == "team-a"
    stored = dict(endpoint.metadata.labels)
    assert len(stored.pop("DCOS_SPACE")) <= 63
    assert stored == {
        "role": "web",
        "team.owner": "a-b",
        "projectcalico.org/namespace": "team-a",
        "projectcalico.org/orchestrator": "cni",
    }
    assert (await mesos(world, "ADD", conf)).stdout == answer.stdout
    await mesos(world, "DEL", conf)
    assert await world.is_clean()


async def test_mesos_may_ask_for_an_address(world: World) -> None:
    info = {"ip_addresses": [{"protocol": "IPv4", "ip_address": "172.29.0.10"}]}
    answer = await mesos(world, "ADD", {"args": {"org.apache.mesos": {"network_info": info}}})
    assert json.loads(answer.stdout)["ip4"]["ip"] == "172.29.0.10/32"


async def mesos(world: World, command: str, conf: dict[str, Any]) -> CniAnswer:
    """A call as the Mesos agent makes it: no CNI_ARGS, version 0.1.0."""
    whole = {
        "name": "calico",
        "type": "calico",
        "cniVersion": "0.1.0",
        "nodename": NODE,
        "nodename_file_optional": True,
        "ipam": {"type": "calico-ipam"},
        **conf,
    }
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": ID,
        "CNI_NETNS": "/box",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni",
        "PATH": "/bin",
    }
    answer = await handle(CniRequestData("calico", environment, json.dumps(whole).encode()), world.host)
    assert answer.exit_code == 0, answer.stdout
    return answer


# --- the other verbs


async def test_check_finds_what_is_broken(world: World) -> None:
    previous = await world.ok("ADD", cniVersion="0.4.0")
    kwargs: dict[str, Any] = {"cniVersion": "0.4.0", "prevResult": previous}
    assert (await world.refused("CHECK", cniVersion="0.4.0"))["code"] == 7
    (endpoint,) = await world.endpoints()
    assert await world.ok("CHECK", **kwargs) is None

    breaks: list[tuple[Callable[[], Any], str]] = [
        (world.kernel.host.clear, "host interface cali5f0c9e11-2b is missing"),
        (world.kernel.boxes.clear, "interface eth0 is missing"),
    ]
    for breakage, text in breaks:
        breakage()
        assert text in (await world.refused("CHECK", **kwargs))["msg"]
    changed = {**previous, "ips": [{"version": "4", "address": "10.0.0.1/32"}]}
    assert "prevResult" in (await world.refused("CHECK", cniVersion="0.4.0", prevResult=changed))["msg"]
    await world.client.delete(WorkloadEndpoint, endpoint.metadata.name, "default")
    assert "is stored" in (await world.refused("CHECK", **kwargs))["msg"]


async def test_garbage_collection_touches_only_this_network_and_node(world: World) -> None:
    await world.ok("ADD", "keep", "/box1")
    await world.ok("ADD", "gone", "/box2")
    await world.ok("ADD", "elsewhere", "/box3", name="other")
    ipam = IpamService(world.store, NODE)
    await ipam.assign_ip("172.29.0.50", "calico.stray", {"node": NODE})
    await ipam.assign_ip("172.29.0.51", "calico.foreign", {"node": "other-node"})
    valid = {"cni.dev/valid-attachments": [{"containerID": "keep", "ifname": "eth0"}], "cniVersion": "1.1.0"}
    assert (await world.refused("GC", cniVersion="1.1.0"))["code"] == 7
    assert len(await world.endpoints()) == 3
    await world.ok("GC", **valid)
    assert {item.spec.container_id for item in await world.endpoints()} == {"keep", "elsewhere"}
    assert len(world.kernel.host) == 2
    assert await world.held() == {"172.29.0.0", "172.29.0.2", "172.29.0.51"}


async def test_status(world: World) -> None:
    assert await world.ok("STATUS", cniVersion="1.1.0") is None
    pool = await world.client.get(IPPool, "pool")
    await world.client.update(msgspec.structs.replace(pool, spec=msgspec.structs.replace(pool.spec, disabled=True)))
    shown = await world.refused("STATUS", cniVersion="1.1.0")
    assert (shown["code"], shown["msg"]) == (50, "plugin not available")
    assert "no enabled IP pool" in shown["details"]


async def test_version_and_no_command(world: World) -> None:
    shown = await handle(CniRequestData("calico", {"CNI_COMMAND": "VERSION"}, b""), world.host)
    assert json.loads(shown.stdout)["supportedVersions"][-1] == "1.1.0"
    assert shown.stdout.count(b"\n") == 1
    about = await handle(CniRequestData("calico-ipam", {}, b""), world.host)
    assert (about.exit_code, about.stdout) == (0, b"")
    assert about.stderr.startswith(b"Calico CNI IPAM ")


async def test_calico_ipam_by_itself(world: World) -> None:
    for expected in ("172.29.0.0/32", "172.29.0.1/32"):
        shown = await world.ok("ADD", program="calico-ipam", cniVersion="1.0.0")
        assert shown == {"cniVersion": "1.0.0", "ips": [{"address": expected}]}
    for _ in range(2):
        await world.ok("DEL", program="calico-ipam")
    assert await world.is_clean()


async def test_an_unready_cluster_is_refused(world: World) -> None:
    cluster = await world.client.get(ClusterInformation, "default")
    spec = msgspec.structs.replace(cluster.spec, datastore_ready=False)
    await world.client.update(msgspec.structs.replace(cluster, spec=spec))
    for command in ("ADD", "DEL"):
        assert (await world.refused(command))["msg"] == "Calico is currently not ready to process requests"
