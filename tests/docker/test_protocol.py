"""The plug-in's sockets, spoken to as Docker, DC/OS's scripts and others do (spec/libnetwork.md 1, 3, 4; S8)."""

from __future__ import annotations

import json

import pytest

from tests.docker.engine import Engine
from tests.lab.cluster import Cluster
from tests.lab.host import CommandFailed


@pytest.fixture(scope="module")
def plugin(engines: tuple[Engine, Engine]) -> Engine:
    return engines[0]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("socket", "method", "answer"),
    [
        ("calico", "NetworkDriver.GetCapabilities", {"Scope": "local"}),
        ("calico-ipam", "IpamDriver.GetCapabilities", {"RequiresMACAddress": False}),
    ],
)
def test_the_readiness_check(plugin: Engine, socket: str, method: str, answer: object, version: str) -> None:
    """A raw GET without a header, which HTTP/1.0 allows."""
    head = f"GET /{method} HTTP/{version}\\r\\n" + ("" if version == "1.0" else "Host:\\r\\nConnection: close\\r\\n")
    found = plugin.host.run(
        ["python3", "-c", f"""
import socket
s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect("/run/docker/plugins/{socket}.sock")
s.sendall(b"{head}\\r\\n"); data = b""
while part := s.recv(4096): data += part
print(data.decode())
"""]).stdout  # fmt: skip
    assert found.startswith(f"HTTP/{version} 200 OK")
    assert json.loads(found.replace("\r", "").partition("\n\n")[2]) == answer


def test_both_sockets_have_the_ipam_driver_and_are_docker_s_alone(plugin: Engine) -> None:
    assert plugin.call("calico", "Plugin.Activate") == {"Implements": ["NetworkDriver", "IpamDriver"]}
    assert plugin.call("calico-ipam", "Plugin.Activate") == {"Implements": ["IpamDriver"]}
    for socket in ("calico", "calico-ipam"):
        assert plugin.call(socket, "IpamDriver.GetDefaultAddressSpaces") == {
            "LocalDefaultAddressSpace": "CalicoLocalAddressSpace",
            "GlobalDefaultAddressSpace": "CalicoGlobalAddressSpace",
        }
        mode = plugin.host.run(["stat", "-c", "%a %U", f"/run/docker/plugins/{socket}.sock"]).stdout.split()
        assert mode == ["660", "root"]


@pytest.mark.parametrize(
    ("body", "status"),
    [("{", "400"), ("[]", "400"), ('{"PoolID": 7}', "400"), ("\\ud800", "400"), ("[" * 100_000, "400"),
     (" " * ((1 << 20) + 1), "413")],
)  # fmt: skip
def test_a_body_that_cannot_be_read(plugin: Engine, body: str, status: str) -> None:
    assert plugin.ask("calico", "IpamDriver.RequestAddress", body).stdout.rpartition("\n")[2] == status


def test_what_is_no_method_is_not_found(plugin: Engine) -> None:
    for name in ("NetworkDriver.Nothing", "..", "NetworkDriver.Join/x", "%0a"):
        assert plugin.ask("calico", name).stdout.rpartition("\n")[2] == "404"


@pytest.mark.parametrize(
    ("method", "body", "words"),
    [
        ("IpamDriver.RequestAddress", {"PoolID": "nope"}, "Invalid Pool - nope"),
        ("IpamDriver.RequestAddress", {"PoolID": "CalicoPoolIPv4", "Address": "x"}, "Invalid IP address: 'x'"),
        ("IpamDriver.RequestAddress", {"PoolID": "CalicoPoolIPv4", "Address": "8.8.8.8"}, "IP assignment error"),
        ("IpamDriver.RequestPool", {"Pool": "172.29.0.0/33"}, "Invalid CIDR"),
        ("NetworkDriver.CreateEndpoint", {"NetworkID": "n", "EndpointID": "e"}, "No address assigned"),
        ("NetworkDriver.CreateEndpoint", {"NetworkID": "n", "EndpointID": "../e"}, "is not an id"),
        ("NetworkDriver.Join", {"NetworkID": "n", "EndpointID": "e1"}, "call PutEndpoint first"),
        ("NetworkDriver.CreateNetwork", {"NetworkID": "a/b"}, "is not an id"),
    ],
)
def test_a_call_that_cannot_succeed_says_why(plugin: Engine, method: str, body: dict[str, str], words: str) -> None:
    with pytest.raises(CommandFailed, match="500: ") as failure:
        plugin.call("calico", method, **body)
    assert words in str(failure.value)


def test_every_call_twice(cluster: Cluster, plugin: Engine) -> None:
    """Docker repeats a call whose answer was lost."""
    network, endpoint = "n" * 64, "ab" * 32
    both = {"NetworkID": network, "EndpointID": endpoint}
    data = [{"AddressSpace": "x", "Gateway": "0.0.0.0/0", "Pool": "0.0.0.0/0"}]
    address = plugin.call("calico-ipam", "IpamDriver.RequestAddress", PoolID="CalicoPoolIPv4")["Address"]
    assert address.endswith("/32")
    generic = {"com.docker.network.generic": {"org.projectcalico.profile": "twice"}}
    for _ in range(2):
        plugin.call("calico", "NetworkDriver.CreateNetwork", NetworkID=network, IPv4Data=data, Options=generic)
    for _ in range(2):
        interface = {"Address": address, "AddressIPv6": "", "MacAddress": ""}
        assert plugin.call("calico", "NetworkDriver.CreateEndpoint", **both, Interface=interface) == {"Interface": {}}
    for _ in range(2):
        joined = plugin.call("calico", "NetworkDriver.Join", **both, SandboxKey="")
        assert joined["InterfaceName"] == {"SrcName": f"temp{endpoint[:11]}", "DstPrefix": "cali"}
        assert (joined["Gateway"], joined["StaticRoutes"]) == (
            "169.254.1.1",
            [{"Destination": "169.254.1.1/32", "RouteType": 1, "NextHop": ""}],
        )
    for _ in range(2):
        assert plugin.call("calico", "NetworkDriver.EndpointOperInfo", **both) == {"Value": {}}
        assert plugin.call("calico", "NetworkDriver.Leave", **both) == {}
    for method in ("DeleteEndpoint", "DeleteNetwork"):
        for _ in range(2):
            assert plugin.call("calico", f"NetworkDriver.{method}", **both) == {}
    for bare in (address.partition("/")[0], "0.0.0.0", "::", "203.0.113.9", ""):
        for _ in range(2):
            assert plugin.call("calico", "IpamDriver.ReleaseAddress", PoolID="x", Address=bare) == {}
    assert "found 0 problems" in cluster.calicoctl("ipam", "check").stdout
    assert plugin.host.run(["ip", "-br", "link", "show", "type", "veth"]).stdout.count("cali") == 0
