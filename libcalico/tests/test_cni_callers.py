"""What callers met in the field: chains of plug-ins, refused containers, renamed hosts (spec/cni.md 12)."""

from __future__ import annotations

import json
import socket
from typing import Any

import msgspec
import pytest

from libcalico.model.codec import from_input
from libcalico.testing.cni_world import ID, NODE, World, started
from libcalico.workload import lifecycle
from libcalico.workload.request import POLICY_TIMEOUT_S


@pytest.fixture(params=[False, True], ids=["alone", "agent"])
async def world(request: pytest.FixtureRequest) -> World:
    return await started(request.param)


async def refused_with_args(world: World, args: dict[str, Any]) -> Any:
    return await world.refused("ADD", cniVersion="1.0.0", conf={"args": args})


async def add_node(world: World, name: str) -> None:
    node = {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": name}, "spec": {}}
    await world.client.create(from_input(node))


# --- a DEL that must not, and one that must


async def test_the_del_that_follows_a_refused_add_touches_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "DYING_S", 0.1)
    await world.ok("ADD", "cni")
    await world.refused("ADD", "cni", "/other")
    before = (world.now(), dict(world.kernel.boxes))
    answer = await world.call("DEL", "cni", "/other")
    assert (answer.exit_code, answer.stdout) == (0, b"")
    assert b"leads to another network namespace than /other: nothing was removed" in answer.stderr
    assert (world.now(), dict(world.kernel.boxes)) == before
    await world.ok("DEL", "cni")
    assert await world.is_clean()


async def test_a_del_whose_interface_goes_with_a_dying_namespace_does_its_work(world: World) -> None:
    await world.ok("ADD")
    world.kernel.dies_after = 3
    await world.ok("DEL", netns="/reborn")
    assert await world.is_clean()


async def test_a_del_finds_an_interface_that_the_task_renamed(world: World) -> None:
    await world.ok("ADD")
    world.kernel.boxes["/box", "mine"] = world.kernel.boxes.pop(("/box", "eth0"))
    world.kernel.host["cali5f0c9e11-2b"] = ("/box", "mine")
    await world.ok("DEL")
    assert await world.is_clean()


@pytest.mark.parametrize("evidence", ["wired", "mac"])
async def test_a_del_after_the_node_got_another_name_frees(world: World, evidence: str) -> None:
    await world.ok("ADD")
    await add_node(world, "worker-02")
    if evidence == "mac":
        (stored,) = await world.endpoints()
        spec = msgspec.structs.replace(stored.spec, interface_name="cali-else")
        await world.client.update(msgspec.structs.replace(stored, spec=spec))
    answer = await world.call("DEL", nodename="worker-02", nodename_file="/nowhere")
    assert (answer.exit_code, b"known under the node name" in answer.stderr) == (0, True)
    assert not await world.held()
    assert not await world.endpoints()


async def test_an_endpoint_with_the_same_id_and_host_interface_on_another_host_is_not_ours(world: World) -> None:
    """Ids like `cni` are the same on every host, and with them the names of host interfaces."""
    await add_node(world, "far")
    await world.ok("ADD", "cni", "/far", nodename="far")
    far = (dict(world.kernel.host), dict(world.kernel.boxes))
    world.kernel.host.clear()
    world.kernel.boxes.clear()
    await world.ok("ADD", "cni", args="MAC=0a:58:00:00:00:01")
    await add_node(world, "renamed")
    await world.ok("DEL", "cni", nodename="renamed", nodename_file="/nowhere")
    (left,) = await world.endpoints()
    assert (left.spec.node, world.kernel.boxes) == ("far", {})
    assert len(await world.held()) == 1
    assert far[1]


async def test_a_repeated_add_after_the_node_got_another_name_leaves_nothing_under_the_former(world: World) -> None:
    await world.ok("ADD")
    await add_node(world, "worker-02")
    answer = await world.call("ADD", nodename="worker-02", nodename_file="/nowhere")
    assert (answer.exit_code, b"endpoint of node 10.0.4.17, as this one was called" in answer.stderr) == (0, True)
    (stored,) = await world.endpoints()
    assert stored.spec.node == "worker-02" and len(await world.held()) == 1
    assert set(world.kernel.boxes) == {("/box", "eth0")}
    await world.ok("DEL", nodename="worker-02", nodename_file="/nowhere")
    assert await world.is_clean()


async def test_an_add_whose_id_another_host_has_too_takes_nothing_of_it(world: World) -> None:
    await add_node(world, "far")
    await world.ok("ADD", "cni", "/far", nodename="far")
    world.kernel.host.clear()
    world.kernel.boxes.clear()
    await world.ok("ADD", "cni", args="MAC=0a:58:00:00:00:01")
    assert {stored.spec.node for stored in await world.endpoints()} == {"far", NODE}


async def test_gc_after_the_node_got_another_name_frees_what_stands_here(world: World) -> None:
    """Not what only has the same names: no interface here has the routes to its addresses."""
    await world.ok("ADD")
    await add_node(world, "worker-02")
    await add_node(world, "far")
    elsewhere = dict(world.kernel.host), dict(world.kernel.boxes)
    await world.ok("ADD", "cni", "/far", nodename="far")
    world.kernel.host.clear()
    world.kernel.boxes.clear()
    world.kernel.host |= elsewhere[0] | {"calicni": ("/box", "eth0")}
    world.kernel.boxes |= elsewhere[1]
    listed = {"cni.dev/valid-attachments": None}
    kept = {"cni.dev/valid-attachments": [{"containerID": ID, "ifname": "eth0"}]}
    for members, left in ((kept, {"far", NODE}), (listed, {"far"})):
        await world.ok("GC", cniVersion="1.1.0", nodename="worker-02", nodename_file="/nowhere", **members)
        assert {stored.spec.node for stored in await world.endpoints()} == left
    assert len(await world.held()) == 1


async def test_a_repeated_add_tells_the_mac_that_the_interface_has(world: World) -> None:
    """A later plug-in of the chain (tuning) changed it: the endpoint and the result say what stands."""
    await world.ok("ADD", cniVersion="1.0.0")
    wiring = world.kernel.boxes["/box", "eth0"]
    world.kernel.boxes["/box", "eth0"] = wiring._replace(mac="0a:58:00:00:00:99")
    shown = await world.ok("ADD", cniVersion="1.0.0")
    assert shown["interfaces"][1]["mac"] == "0a:58:00:00:00:99"
    (stored,) = await world.endpoints()
    assert stored.spec.mac == "0a:58:00:00:00:99"
    await world.ok("CHECK", cniVersion="1.0.0", prevResult=shown)


async def test_an_add_to_a_renamed_interface_says_so(world: World) -> None:
    await world.ok("ADD")
    world.kernel.boxes["/box", "eth7"] = world.kernel.boxes.pop(("/box", "eth0"))
    world.kernel.host["cali5f0c9e11-2b"] = ("/box", "eth7")
    shown = await world.refused("ADD")
    assert "its interface has the name eth7 in /box, not eth0: rename it back, or call DEL first" in shown["msg"]
    assert len(await world.endpoints()) == 1


# --- CHECK


async def test_check_takes_what_a_later_plugin_changed_and_looks_at_ours(world: World) -> None:
    previous = await world.ok("ADD", cniVersion="1.0.0")

    def check(**changed: Any) -> dict[str, Any]:
        return {"cniVersion": "1.0.0", "prevResult": {**previous, **changed}}

    near, far = previous["interfaces"]
    tuned = [near, {**far, "mac": "0A:58:00:00:00:99"}]
    assert "has MAC" in (await world.refused("CHECK", **check(interfaces=tuned)))["msg"]
    wiring = world.kernel.boxes["/box", "eth0"]
    world.kernel.boxes["/box", "eth0"] = wiring._replace(mac="0a:58:00:00:00:99")
    assert "has MAC" in (await world.refused("CHECK", **check()))["msg"]
    await world.ok("CHECK", **check(interfaces=tuned))
    another = {"address": "10.9.9.9/24", "interface": 2}
    chained = check(interfaces=[*tuned, {"name": "net1", "sandbox": "/box"}], ips=[*previous["ips"], another])
    await world.ok("CHECK", **chained)


async def test_check_sees_an_interface_that_is_down_and_a_lost_default_route(world: World) -> None:
    previous = await world.ok("ADD", cniVersion="1.0.0")
    kwargs: dict[str, Any] = {"cniVersion": "1.0.0", "prevResult": previous}
    world.kernel.down.add(("/box", "eth0"))
    assert "interface eth0 is down in /box" in (await world.refused("CHECK", **kwargs))["msg"]
    world.kernel.down.clear()
    world.kernel.unrouted.add(socket.AF_INET)
    assert "eth0 has no IPv4 default route" in (await world.refused("CHECK", **kwargs))["msg"]
    world.kernel.unrouted.clear()
    await world.ok("CHECK", **kwargs)


async def test_check_sees_an_endpoint_that_forgot_an_address(world: World) -> None:
    previous = await world.ok("ADD", cniVersion="1.0.0")
    (stored,) = await world.endpoints()
    await world.host.open_ipam(world.client, NODE).assign_ip("172.29.0.9", f"calico.{stored.spec.container_id}")
    wiring = world.kernel.boxes["/box", "eth0"]
    world.kernel.boxes["/box", "eth0"] = wiring._replace(addresses=("172.29.0.0", "172.29.0.9"))
    more = {**previous, "ips": [*previous["ips"], {"address": "172.29.0.9/32", "interface": 1}]}
    assert "lacks ['172.29.0.9']" in (await world.refused("CHECK", cniVersion="1.0.0", prevResult=more))["msg"]


async def test_a_repeated_add_completes_a_container_without_its_default_route(world: World) -> None:
    await world.ok("ADD")
    world.kernel.unrouted.add(socket.AF_INET)
    await world.ok("ADD")
    assert world.kernel.completed == 1


# --- GC


async def test_garbage_collection_takes_gos_null_for_an_empty_list(world: World) -> None:
    await world.ok("ADD")
    refused = await world.refused("GC", cniVersion="1.1.0", **{"cni.dev/valid-attachments": {}})
    assert (refused["code"], "wanted array" in refused["msg"]) == (6, True)
    assert len(await world.endpoints()) == 1
    await world.ok("GC", cniVersion="1.1.0", **{"cni.dev/valid-attachments": None})
    assert await world.is_clean()
    assert json.dumps(world.kernel.host) == "{}"


# --- what a configuration says


@pytest.mark.parametrize("version", ["0.1.0", "0.3.1", "1.0.0"])
async def test_the_configurations_dns_is_in_the_result(world: World, version: str) -> None:
    dns = {"nameservers": ["192.0.2.53"], "search": ["example.org"], "domain": "", "options": []}
    for _ in range(2):
        shown = await world.ok("ADD", cniVersion=version, dns=dns)
        assert shown["dns"] == {"nameservers": ["192.0.2.53"], "search": ["example.org"]}


async def test_labels_of_the_cni_conventions_are_stored(world: World) -> None:
    entries = [{"key": "role", "value": "web"}, {"key": "tier", "value": None}]
    conf = {"args": {"cni": {"labels": entries}}}
    answer = await world.call("ADD", cniVersion="0.4.0", conf=conf)
    assert b"args.cni.labels is read from cniVersion 1.0.0 on" in answer.stderr
    (stored,) = await world.endpoints()
    assert "role" not in stored.metadata.labels
    await world.ok("DEL", cniVersion="0.4.0", conf=conf)
    await world.ok("ADD", cniVersion="1.0.0", conf=conf)
    (stored,) = await world.endpoints()
    assert (stored.metadata.labels["role"], stored.metadata.labels["tier"]) == ("web", "")


async def test_a_wrong_type_inside_args_is_refused_before_any_effect(world: World) -> None:
    info = {"labels": {"labels": [{"key": "n", "value": 5}]}}
    args = {"org.apache.mesos": {"network_info": info}}
    before = world.now()
    shown = await refused_with_args(world, args)
    assert (shown["code"], "labels.labels[0].value is 5, wanted string" in shown["msg"]) == (6, True)
    assert (world.now(), world.kernel.host) == (before, {})


@pytest.mark.parametrize("family", [4, 6])
async def test_a_family_without_a_pool_is_named(world: World, family: int) -> None:
    for pool in (await world.client.list("IPPool")).items if family == 4 else ():
        await world.client.delete("IPPool", pool.metadata.name)
    answer = await world.call("ADD", ipam={"type": "calico-ipam", "assign_ipv6": "true"})
    assert json.loads(answer.stdout)["msg"] == "cannot find a qualified ippool"
    assert f"no IPv{family} address: no IP pool of this family" in answer.stderr.decode()
    assert await world.is_clean()


async def test_a_hostile_label_key_is_refused_at_once(world: World) -> None:
    shown = await refused_with_args(world, {"cni": {"labels": [{"key": "-" * 150_000, "value": "x"}]}})
    assert "has 150000 characters" in shown["msg"]
    assert len(shown["msg"]) < 300


# --- wrong types, wherever they stand


@pytest.mark.parametrize("program", ["calico", "calico-ipam"])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ips": 5}, "prevResult.ips is 5, wanted array"),
        ({"ips": ["172.29.0.0"]}, "prevResult.ips[0] is '172.29.0.0', wanted object"),
        ({"ips": [{"address": 5}]}, "prevResult.ips[0].address is 5, wanted string"),
        ({"ips": [{"address": "172.29.0.0/32", "interface": True}]}, "ips[0].interface is true, wanted integer"),
        ({"interfaces": {}}, "prevResult.interfaces is {}, wanted array"),
        ({"interfaces": [{"name": "eth0", "mac": 5}]}, "prevResult.interfaces[0].mac is 5, wanted string"),
    ],
)
async def test_a_previous_result_of_wrong_types_is_named(
    world: World, program: str, changed: dict[str, Any], words: str
) -> None:
    previous = await world.ok("ADD", cniVersion="1.0.0")
    shown = await world.refused("CHECK", program=program, cniVersion="1.0.0", prevResult={**previous, **changed})
    assert (shown["code"], words in shown["msg"]) == (6, True), shown


@pytest.mark.parametrize("previous", [5, [], "x", True])
async def test_a_previous_result_that_is_no_object_is_named(world: World, previous: Any) -> None:
    for command in ("ADD", "CHECK"):
        shown = await world.refused(command, cniVersion="1.0.0", prevResult=previous)
        assert shown["code"] == 6 and "prevResult is" in shown["msg"] and "wanted object" in shown["msg"]
    answer = await world.call("DEL", cniVersion="1.0.0", prevResult=previous)
    assert (answer.exit_code, b"wanted object: ignored" in answer.stderr) == (0, True)
    assert (await world.refused("CHECK", cniVersion="1.0.0", prevResult=None))["code"] == 7


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        (5, 6, "valid-attachments[0] is 5, wanted object"),
        ({"containerID": 5, "ifname": "eth0"}, 6, "valid-attachments[0].containerID is 5, wanted string"),
        ({"containerID": "c", "ifname": ["eth0"]}, 6, 'ifname is ["eth0"], wanted string'),
        (None, 7, "bad entry null"),
        ({"containerID": "c"}, 7, "bad entry"),
        ({"containerID": "", "ifname": ""}, 7, "wanted containerID and ifname"),
    ],
)
async def test_an_entry_that_names_no_attachment_removes_nothing(
    world: World, entry: Any, code: int, words: str
) -> None:
    await world.ok("ADD")
    shown = await world.refused("GC", cniVersion="1.1.0", **{"cni.dev/valid-attachments": [entry]})
    assert (shown["code"], words in shown["msg"], "nothing was removed" in shown["msg"]) == (code, True, True), shown
    assert len(await world.endpoints()) == 1


@pytest.mark.parametrize(
    "members", [{"args": "IP=::ffff:172.29.0.9"}, {"runtimeConfig": {"ips": ["::ffff:172.29.0.9/120"]}}]
)
async def test_an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address(world: World, members: dict[str, Any]) -> None:
    shown = await world.ok("ADD", **members)
    assert shown["ips"] == [{"version": "4", "interface": 1, "address": "172.29.0.9/32"}]


async def test_null_in_dns_is_the_empty_text(world: World) -> None:
    shown = await world.ok("ADD", dns={"nameservers": [None, "192.0.2.53"], "domain": None, "search": None})
    assert shown["dns"] == {"nameservers": ["", "192.0.2.53"]}


async def test_a_negative_time_for_policy_is_the_usual_one(world: World) -> None:
    waits: list[float] = []

    async def wait(key: object, revision: int, timeout_s: float) -> None:
        waits.append(timeout_s)

    world.host.wait_programmed = wait  # type: ignore[method-assign]
    await world.ok("ADD", policy_setup_timeout_seconds=-5)
    assert waits == [POLICY_TIMEOUT_S]
