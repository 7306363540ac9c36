"""Parts of the players of packet verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.compat import vectors
from tests.compat.contract import Options
from tests.compat.formats import verdicts
from tests.compat.verdict_lab import rounds
from tests.compat.verdict_player import environment_of
from tests.compat.verdict_probes import protocol_of, verdict_of

NODES: dict[str, dict[str, Any]] = {
    "w1": {"interface_on_host": "caliw1"},
    "w2": {"interface_on_host": "caliw2"},
    "ext": {"interface_on_host": None},
    "host": {"interface_on_host": None},
}
FILES = [path for path in vectors.find_files() if path.name == "verdicts.jsonl"]


def probe(source: str = "w1", target: str = "w2", proto: Any = "tcp", **more: Any) -> dict[str, Any]:
    ports = {"dport": 80} if proto in ("tcp", "udp") else {}
    return {"from": source, "to": target, "family": 4, "proto": proto, "allowed": True, **ports, **more}


@pytest.mark.skipif(not FILES, reason="no vector files")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_in_memory(path: Path) -> None:
    assert vectors.run(path, Options(mode="memory"))["failed"] == 0, "see the FAIL lines above"


def test_what_policy_alone_decides() -> None:
    for one in (probe(), probe("ext", "w1"), probe(proto="icmp"), probe(proto=99), probe(proto="udp")):
        assert verdicts.is_policy_alone(NODES, one), one
    for one in (
        probe("w1", "host"), probe("host", "w1"), probe("ext", "ext"), probe(proto="udp", src="192.0.2.1"),
        probe(proto="icmp", icmp={"type": 3}), probe(proto=4), probe(proto="udp", dport=4789),
    ):  # fmt: skip
        assert not verdicts.is_policy_alone(NODES, one), one


def test_what_is_lacking_is_named_by_kind_and_setting() -> None:
    def reason(*kinds: str, **felix: Any) -> str:
        scenario = {"resources": [{"kind": kind} for kind in kinds], "felix": felix}
        return verdicts.lacking(scenario, Options())

    assert reason("GlobalNetworkPolicy", "StagedNetworkPolicy", defaultEndpointToHostAction="Return") == ""
    assert reason("Node", nftablesFilterNoSuch=1) == "needs setting nftablesFilterNoSuch"
    assert verdicts.lacking({"resources": []}, Options(backend="iptables")) == "needs the iptables backend"


def test_settings_become_variables() -> None:
    port = {"protocol": "TCP", "net": "10.0.0.0/8", "port": 22}
    assert environment_of(
        {"failsafeInboundHostPorts": [], "failsafeOutboundHostPorts": [port, {**port, "net": ""}]}
    ) == {
        "FELIX_FAILSAFEINBOUNDHOSTPORTS": "none",
        "FELIX_FAILSAFEOUTBOUNDHOSTPORTS": "tcp:10.0.0.0/8:22,tcp:22",
    }
    assert environment_of({"defaultEndpointToHostAction": "Return", "ipv6Support": False}) == {
        "FELIX_DEFAULTENDPOINTTOHOSTACTION": "Return",
        "FELIX_IPV6SUPPORT": "false",
    }


def test_probes_that_connection_tracking_takes_for_one_are_sent_apart() -> None:
    there, back = probe(sport=1000, dport=2000), probe("w2", "w1", sport=2000, dport=1000)
    assert [list(group) for group in rounds([there, back, probe(), probe()])] == [[0, 2, 3], [1]]
    assert [list(group) for group in rounds([probe(proto=99), probe("w2", "w1", proto=99)])] == [[0], [1]]
    assert [list(group) for group in rounds([probe(proto="icmp"), probe("w2", "w1", proto="icmp")])] == [[0, 1]]


def test_a_probe_s_protocol_and_verdict() -> None:
    assert [protocol_of(probe(proto=word)) for word in ("tcp", "sctp", "icmp", 99, "47")] == [6, 132, 1, 99, 47]
    assert protocol_of({**probe(proto="icmpv6"), "family": 6}) == 58
    assert verdict_of(probe())
    assert not verdict_of(probe(ours={"allowed": False}))
