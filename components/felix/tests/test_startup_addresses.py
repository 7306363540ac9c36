"""Which addresses a Node is stored with: every row of the table, conflicts, and names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from calico_felix.startup import detection, names
from calico_felix.startup.addresses import Taken, ensure_node
from calico_felix.startup.detection import Interface, Method, NotFound, detect, parse_method
from calico_felix.startup.host import HostNetwork
from calico_felix.startup.variables import NODE_VARIABLES, Variables
from libcalico.client.objects import AsyncClient
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData, ResourceDoesNotExist
from libcalico.model import Metadata, Node, NodeBGPSpec, NodeSpec

ETH0 = Interface(2, "eth0", ("fe80::1/64", "10.0.0.5/24", "fd00::5/64"))
ETH1 = Interface(3, "eth1", ("169.254.3.4/16", "10.1.0.5/16", "10.1.0.6/16"))
DOCKER = Interface(9, "docker0", ("172.17.0.1/16",))
LO = Interface(1, "lo", ("127.0.0.1/8", "::1/128", "10.9.9.9/32"))
HOST = (LO, ETH0, ETH1, DOCKER)


class Network(HostNetwork):
    """A host with these interfaces, and one way out."""

    def __init__(self, *interfaces: Interface, way: str = "") -> None:
        self._interfaces, self._way = list(interfaces), way

    def interfaces(self) -> list[Interface]:
        return self._interfaces

    def source_to(self, host: str, version: int) -> str:
        if not self._way:
            raise OSError(101, "Network is unreachable")
        return self._way


@pytest.mark.parametrize(
    ("text", "version", "found"),
    [
        ("first-found", 4, "10.1.0.5/16 eth1"),
        ("first-found", 6, "fd00::5/64 eth0"),
        ("interface=eth0", 4, "10.0.0.5/24 eth0"),
        ("interface=nothing, h1$", 4, "10.1.0.5/16 eth1"),
        ("interface=docker", 4, "172.17.0.1/16 docker0"),
        ("skip-interface=eth1", 4, "10.0.0.5/24 eth0"),
        ("skip-interface=nothing,th1", 4, "10.0.0.5/24 eth0"),
        ("cidr=192.0.2.0/24,10.0.0.0/16", 4, "10.0.0.5/24 eth0"),
        ("cidr=172.16.0.0/12", 4, "172.17.0.1/16 docker0"),
        ("cidr=10.9.0.0/16", 4, "10.9.9.9/32 lo"),
        ("can-reach=192.0.2.1", 4, "10.1.0.6/16 eth1"),
    ],
)
def test_every_method(text: str, version: int, found: str) -> None:
    network = Network(*HOST, way="10.1.0.6")
    assert " ".join(detect(parse_method(text), version, HOST, network.source_to)) == found
    assert str(parse_method(text)) == text.replace(", ", ",")


@pytest.mark.parametrize(
    ("text", "version", "reason"),
    [
        ("interface=eth9", 4, "interface=eth9 finds no IPv4 address; this host has lo 10.9.9.9/32, eth0 10.0.0.5/24,"),
        ("cidr=192.0.2.0/24", 6, "finds no IPv6 address; this host has eth0 fd00::5/64"),
        ("can-reach=192.0.2.1", 4, "can-reach=192.0.2.1 finds no IPv4 address: Network is unreachable"),
    ],
)
def test_a_method_that_finds_nothing_says_what_there_is(text: str, version: int, reason: str) -> None:
    with pytest.raises(NotFound) as error:
        detect(parse_method(text), version, HOST, Network(*HOST).source_to)
    assert reason in str(error.value)


def test_names_of_interfaces_that_lead_nowhere() -> None:
    leads = ("eth0", "ens3", "bond0", "enp1s0", "br0", "wlan0", "xdocker0")
    nowhere = ("docker0", "br-123", "cali12", "tunl0", "vxlan.calico", "vxlan-v6.calico", "lo", "d-dcos", "vtep1024",
               "minuteman", "spartan", "m-dcos", "dcos-x", "virbr0", "veth1", "wg-v6.cali", "nodelocaldns")  # fmt: skip
    assert not any(detection.EXCLUDED.match(name) for name in leads)
    assert all(detection.EXCLUDED.match(name) for name in nowhere)
    with pytest.raises(NotFound):
        detect(detection.FIRST_FOUND, 4, [DOCKER, LO], Network().source_to)
    assert detect(Method("skip-interface", ("x",)), 4, [DOCKER, ETH0], Network().source_to)[1] == "eth0"


def stored(name: str, v4: str = "", v6: str = "") -> Node:
    return Node(
        metadata=Metadata(name=name), spec=NodeSpec(bgp=NodeBGPSpec(ipv4_address=v4, ipv6_address=v6, as_number=65001))
    )


async def run(
    client: AsyncClient, environment: Mapping[str, str], network: Network | None = None, create: bool = True
) -> Node:
    variables = Variables(environment, NODE_VARIABLES)
    await ensure_node(client, "here", variables, network or Network(*HOST), create=create)
    before = (await client.list(Node)).revision
    assert not await ensure_node(client, "here", variables, network or Network(*HOST), create=create)
    assert (await client.list(Node)).revision == before
    return await client.get(Node, "here")


FORMER = ("10.0.0.5/24", "fd00::9/64")


@pytest.mark.parametrize(
    ("former", "environment", "wanted"),
    [
        (("", ""), {}, ("10.1.0.5/16", "")),
        (FORMER, {}, FORMER),
        (("", "fd00::9/64"), {}, ("10.1.0.5/16", "fd00::9/64")),
        (FORMER, {"IP": "autodetect", "IP6": "autodetect"}, ("10.1.0.5/16", "fd00::5/64")),
        (FORMER, {"IP": "none", "IP6": "none"}, FORMER),
        (("", ""), {"IP": "none", "IP6": "autodetect"}, ("", "fd00::5/64")),
        (FORMER, {"IP": "10.1.0.6", "IP6": "fd00::5"}, ("10.1.0.6/16", "fd00::5/64")),
        (FORMER, {"IP": "10.1.0.6/20"}, ("10.1.0.6/20", "fd00::9/64")),
        (FORMER, {"IP": "192.0.2.7", "IP6": "fd00::7"}, ("192.0.2.7/32", "fd00::7/128")),
        (FORMER, {"IP": "autodetect", "CALICO_NETWORKING_BACKEND": "none"}, FORMER),
        (FORMER, {"IP": "autodetect", "CALICO_NETWORKING": "false"}, FORMER),
        (("", ""), {"IP": "10.1.0.6", "CALICO_NETWORKING_BACKEND": "none"}, ("", "")),
        (("", ""), {"IP_AUTODETECTION_METHOD": "interface=eth0"}, ("10.0.0.5/24", "")),
        (FORMER, {"IP": "autodetect", "IP_AUTODETECTION_METHOD": "interface=eth9"}, FORMER),
    ],
)
async def test_every_row(former: tuple[str, str], environment: dict[str, str], wanted: tuple[str, str]) -> None:
    for is_new in (False, True) if former == ("", "") else (False,):
        client = AsyncClient(MemoryDatastore())
        if not is_new:
            await client.create(stored("here", *former))
        routing = (await run(client, environment)).spec.bgp
        assert (("", "") if routing is None else (routing.ipv4_address, routing.ipv6_address)) == wanted
        assert is_new or (routing is not None and routing.as_number == 65001)


@pytest.mark.parametrize(("text", "wanted"), [("64512", 64512), ("1.10", 65546), ("0", 0), ("4294967295", 4294967295)])
async def test_the_as_number(text: str, wanted: int) -> None:
    routing = (await run(AsyncClient(MemoryDatastore()), {"AS": text})).spec.bgp
    assert routing is not None and routing.as_number == wanted


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"IP_AUTODETECTION_METHOD": "interface=eth9"}, "IP_AUTODETECTION_METHOD=interface=eth9 finds no IPv4 address"),
        ({"IP": "none"}, "no IPv4 or IPv6 addresses configured or detected"),
        ({"IP": "none", "IP6": "autodetect", "IP6_AUTODETECTION_METHOD": "cidr=fd99::/64"}, "set IP6 to this host's"),
    ],
)
async def test_a_node_without_any_address_is_not_stored(environment: dict[str, str], reason: str) -> None:
    client = AsyncClient(MemoryDatastore())
    with pytest.raises(BadData) as error:
        await run(client, environment)
    assert reason in str(error.value) and not (await client.list(Node)).items


async def test_two_nodes_with_one_address() -> None:
    client = AsyncClient(MemoryDatastore())
    await client.create(stored("there", "10.1.0.5/24", "fd00::5/64"))
    for environment, version in (({"IP": "10.1.0.5"}, 4), ({"IP": "10.0.0.5", "IP6": "fd00::5"}, 6)):
        with pytest.raises(Taken, match=f"IPv{version} address conflict: Calico node 'there' is already using"):
            await run(client, environment)
    assert [node.metadata.name for node in (await client.list(Node)).items] == ["there"]
    await run(client, {"IP": "10.1.0.5", "DISABLE_NODE_IP_CHECK": "true"})
    await run(client, {})  # an address that stays is nobody's business


@pytest.mark.parametrize(("text", "left"), [("autodetect", ""), ("10.1.0.5", "10.0.0.5/24")])
async def test_a_stale_address_is_cleared_when_the_detected_one_is_taken(text: str, left: str) -> None:
    client = AsyncClient(MemoryDatastore())
    await client.create(stored("there", "10.1.0.5/24"))
    await client.create(stored("here", "10.0.0.5/24"))
    with pytest.raises(Taken):
        await run(client, {"IP": text})
    routing = (await client.get(Node, "here")).spec.bgp
    assert routing is not None and (routing.ipv4_address, routing.as_number) == (left, 65001)


async def test_an_address_that_no_interface_has_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    await run(AsyncClient(MemoryDatastore()), {"IP": "192.0.2.7"})
    assert "IP=192.0.2.7: no interface of this host has this address" in caplog.text


async def test_the_monitor_stores_no_node_anew() -> None:
    client = AsyncClient(MemoryDatastore())
    with pytest.raises(ResourceDoesNotExist):
        await run(client, {}, create=False)
    assert not (await client.datastore.range(b"/")).kvs, "an emptied datastore is not initialised either"
    await client.create(stored("here", "10.0.0.5/24"))
    routing = (await run(client, {"IP": "autodetect"}, create=False)).spec.bgp
    assert routing is not None and routing.ipv4_address == "10.1.0.5/16"


@pytest.mark.parametrize(("content", "hostname"), [(b"\xff\xfe", "h"), (b"a b", "h"), (b"", "h"), (b"x" * 5000, "h")])
def test_a_nodename_file_with_garbage_is_named(tmp_path: Path, content: bytes, hostname: str) -> None:
    path = tmp_path / "nodename"
    path.write_bytes(content)
    with pytest.raises(BadData, match="nodename"):
        names.find_node_name({"CALICO_NODENAME_FILE": str(path), "HOSTNAME": hostname})


def test_an_empty_host_name_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Sys-Name")
    none = {"CALICO_NODENAME_FILE": str(tmp_path / "none"), "HOSTNAME": " "}
    assert names.find_node_name(none) == ("sys-name", "host name")
    monkeypatch.setattr("socket.gethostname", lambda: "")
    with pytest.raises(BadData, match="set NODENAME"):
        names.find_node_name(none)
    names.check_new_name("10.20.0.11", "NODENAME")
    for name in ("Upper", "a_b", "-a", "a" * 254):
        with pytest.raises(BadData, match="is no Node's name"):
            names.check_new_name(name, "NODENAME")
