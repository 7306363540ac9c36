"""Bodies of Docker's calls, and names that are made of Docker's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_libnetwork import protocol
from calico_libnetwork.networks import profile_name
from calico_libnetwork.protocol import CreateNetwork, DriverError, Malformed, decode, flat_options
from libcalico.workload.endpoint import check_profile

RECORDED = (
    b'{"NetworkID":"1a76","Options":{"com.docker.network.enable_ipv6":false,"com.docker.network.generic":'
    b'{"org.projectcalico.profile":"web"}},"IPv4Data":[{"AddressSpace":"CalicoGlobalAddressSpace",'
    b'"Gateway":"0.0.0.0/0","Pool":"172.29.0.0/16"}],"IPv6Data":[]}'
)


def test_a_recorded_network() -> None:
    call = decode(RECORDED, CreateNetwork)
    assert (call.network, call.subnets) == ("1a76", ["172.29.0.0/16"])
    assert flat_options(call) == {"com.docker.network.enable_ipv6": False, "org.projectcalico.profile": "web"}


def test_a_pool_that_nobody_chose_is_no_subnet() -> None:
    pools = [{"Pool": pool, "Gateway": ""} for pool in ("", "0.0.0.0/0", "::/0")]
    assert decode(json.dumps({"NetworkID": "n", "IPv4Data": pools}).encode(), CreateNetwork).subnets == []


def test_null_counts_as_absent_and_no_body_as_an_empty_object() -> None:
    call = decode(b'{"PoolID": "p", "Address": null, "Options": null}', protocol.RequestAddress)
    assert (call.address, call.options) == ("", None)
    assert decode(b"", protocol.RequestPool) == protocol.RequestPool()


@pytest.mark.parametrize("generic", ["x", 7, ["a"]])
def test_generic_options_that_are_no_object(generic: object) -> None:
    body = json.dumps({"NetworkID": "n", "Options": {"com.docker.network.generic": generic}}).encode()
    with pytest.raises(DriverError, match="Could not parse options"):
        flat_options(decode(body, CreateNetwork))


@given(
    st.binary()
    | st.recursive(st.none() | st.booleans() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_body_is_decoded_or_malformed(body: bytes) -> None:
    for kind in (protocol.RequestPool, protocol.CreateNetwork, protocol.CreateEndpoint, protocol.Join):
        try:
            decode(body, kind)
        except Malformed:
            pass


@pytest.mark.parametrize(
    ("network", "profile"),
    [
        ("frontend-net", "frontend-net"),
        ("web.v2", "web.v2"),
        ("Frontend", "frontend-152d1cf2"),
        ("a_b", "a-b-eb2980a5"),
        ("ns/net", "ns.net-"),
        ("a" * 63, "a" * 63),
        ("a" * 64, "a" * 54 + "-"),
    ],
)
def test_the_profile_of_a_network_s_name(network: str, profile: str) -> None:
    assert profile_name(network).startswith(profile)
    check_profile(profile_name(network))


@given(st.text(min_size=1, max_size=80))
def test_any_name_makes_a_profile_that_can_be_stored(network: str) -> None:
    check_profile(profile_name(network))
