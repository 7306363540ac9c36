"""Nothing that is stored gets out of its place in BIRD's grammar: random and hostile texts in every member."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calico_bird.grammar import NotBird, filter_symbol, neighbor_address, password, router_id
from calico_bird.render import Rendered, Renderer
from calico_bird.testing import node, resource, routing
from libcalico.model.keys import ResourceKey
from libcalico.testing.bird import refusal

ESCAPES = (
    '"; } protocol bgp evil { #', "'; }", "}}}}", "1.2.3.4; }", "/* ", "*/", "a\nrouter id 6.6.6.6;", "\x00", "\\", "#",
    "x\")) then accept; } #", "1:2)); accept; #", "$(reboot)", "{{ 7 * 7 }}", "{% raw %}", "é" * 40, "x" * 65536,
    '"' * 65536, "0", "-1", "10.0.4.300", "fe80::1%eth0", "::ffff:10.0.4.1", "::", "4294967296:1", "65536:1", "\ud800",
)  # fmt: skip
TEXTS = (
    st.sampled_from(ESCAPES) | st.text(max_size=40) | st.text("\"'{};#/*\\\n $()[]&|!~=,.:-0123456789ab", max_size=60)
)
GOOD_PEER = resource("BGPPeer", "good", peerIP="198.51.100.1", asNumber=65100)


def _world(text: str) -> Rendered:
    """A configuration with the text in every place where a stored object can have one."""
    plain = text.encode("utf-8", "replace").decode()
    rule: dict[str, Any] = {"action": "Reject", "interface": plain}
    objects = [
        node("m1", "192.168.10.11/24", "fd10::11/64", {"rack": plain}, routeReflectorClusterID=plain),
        node("m2", plain, plain),
        node(plain, "192.168.10.13/24", routeReflectorClusterID=plain),
        resource(
            "BGPConfiguration", "default", ignoredInterfaces=[plain, "docker*"], logSeverityScreen=plain,
            bindMode=plain, programClusterRoutes=plain, nodeMeshPassword={"secretKeyRef": {"name": "s", "key": "k"}},
            communities=[{"name": plain, "value": plain}], nodeMeshMaxRestartTime=plain,
            prefixAdvertisements=[{"cidr": plain, "communities": [plain]},
                                  {"cidr": "10.50.0.0/16", "communities": [plain, "65000:1"]}],
        ),
        resource("IPPool", "p", cidr=plain, ipipMode=plain, vxlanMode=plain),
        resource("BGPFilter", plain, exportV4=[{"action": "Reject"}], importV4=[rule], importV6=[{"action": plain}]),
        resource("BGPFilter", "f", exportV4=[{"action": "Accept", "cidr": plain, "matchOperator": plain}],
                 exportV6=[{"action": "Accept", "communities": {"values": [plain]}}],
                 importV4=[{"action": "Accept", "operations": [{"addCommunity": {"value": plain}}]}],
                 importV6=[{"action": "Accept", "source": plain, "peerType": plain}]),
        resource("BGPPeer", plain, peerIP=plain, asNumber=1),
        resource("BGPPeer", "p1", peerIP="198.51.100.9", asNumber=2, filters=[plain, "f"], nextHopMode=plain,
                 sourceAddress=plain, keepaliveTime=plain, maxRestartTime=plain),
        resource("BGPPeer", "p2", peerIP="198.51.100.8", asNumber=2, reachableBy=plain),
        resource("BGPPeer", "p3", peerSelector=plain, nodeSelector=plain, node=plain, filters=[plain]),
        resource("BGPPeer", "p5", peerIP="198.51.100.7", asNumber=2, filters=[f"{plain}-damaged"]),
        resource("BGPPeer", "p4", peerIP="fd99::4", asNumber=2, password={"secretKeyRef": {"name": "s", "key": "k"}}),
        GOOD_PEER,
    ]  # fmt: skip
    state = routing("m1", objects, blocks=["10.50.3.64/26"], passwords={("s", "k"): text}, router_id=plain)
    state.put(ResourceKey("BGPFilter", f"{plain}-damaged"), text.encode("utf-8", "surrogatepass"))
    status = {"ipv4Nets": [plain], "ipv6Nets": [plain], "bgpPeerName": plain}
    state.put_workload(plain, json.dumps(status).encode())
    return Renderer().render(state)


@given(TEXTS)
@example(ESCAPES[0])
@example('"' * 65536)
def test_bird_takes_every_file_and_good_objects_stay(text: str) -> None:
    rendered = _world(text)
    assert refusal(rendered.text) == ""
    assert "protocol bgp Global_198_51_100_1 from calico_bgp4 {" in rendered.text
    assert "route 10.50.3.64/26 blackhole;" in rendered.text
    assert "protocol bgp evil" not in rendered.text
    assert len(rendered.text) < 16000


@given(TEXTS, st.sampled_from(("import", "export")), st.sampled_from((4, 6)))
def test_a_filters_function_is_one_symbol(name: str, direction: str, family: int) -> None:
    symbol = filter_symbol(name, direction, family)
    assert len(symbol) <= 64
    assert all(one.isascii() and (one.isalnum() or one in "_.-") for one in symbol)


@given(st.text(max_size=60), st.text(max_size=60))
def test_different_filters_have_different_functions(one: str, other: str) -> None:
    assert (one == other) == (filter_symbol(one, "import", 4) == filter_symbol(other, "import", 4))


def test_a_name_that_looks_like_a_hash_is_hashed_itself() -> None:
    hashed = filter_symbol("b" * 60, "import", 4).removeprefix("bgp_").removesuffix("_importFilterV4")
    assert filter_symbol(hashed, "import", 4) != filter_symbol("b" * 60, "import", 4)


@given(TEXTS)
def test_a_password_is_one_string_or_refused(text: str) -> None:
    try:
        quoted = password(text)
    except NotBird as error:
        assert text not in str(error) or len(text) < 3
        return
    assert quoted == f'"{text}"'
    assert '"' not in text and "\n" not in text and 1 <= len(text.encode()) <= 80


@pytest.mark.parametrize("text", ["0.0.0.0", "224.0.0.5", "255.255.255.255", "::", "fe80::1", "ff02::1"])
def test_what_cannot_be_an_end_of_a_session(text: str) -> None:
    with pytest.raises(NotBird):
        neighbor_address(text)


@pytest.mark.parametrize("text", ["", "1", "1.2.3", "::1", "0.0.0.0", "1.2.3.4 ", "01.2.3.4x"])
def test_what_is_no_router_id(text: str) -> None:
    with pytest.raises(NotBird):
        router_id(text)
