"""The agent's parameters: values that end up in the ruleset are checked before, and a bad one cannot open the host."""

from __future__ import annotations

import time

import pytest

from calico_felix.parameters import PARAMETERS, dataplane_config, pass_mark
from libcalico.config import Configuration
from libcalico.errors import BadData
from libcalico.model.go_regex import go_search


def configuration(**datastore: str) -> Configuration:
    made = Configuration(PARAMETERS)
    made.load_datastore(datastore)
    made.resolve()
    return made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("natPortRange", "1024-2048 ; flush ruleset"),
        ("natPortRange", "70000"),
        ("natPortRange", "9:8"),
        ("natPortRange", "1:"),
        ("logActionRateLimit", '10/second" drop'),
        ("logActionRateLimit", "0/second"),
    ],
)
def test_a_bad_value_does_not_reach_the_ruleset(name: str, value: str) -> None:
    made = configuration(**{name: value})
    good = dataplane_config(configuration(), "h")
    assert len(made.warnings) == 1 and name.lower() in made.warnings[0].lower()
    assert dataplane_config(made, "h") == good


@pytest.mark.parametrize("number", ["0", "2", "4", "16", "186", "256"])
def test_the_protocol_of_others_routes_is_refused(number: str) -> None:
    made = configuration(deviceRouteProtocol=number)
    assert len(made.warnings) == 1 and "DeviceRouteProtocol" in made.warnings[0]
    assert made["DeviceRouteProtocol"] == 3


def test_good_values_reach_it() -> None:
    made = configuration(natPortRange="1024:2048", logActionRateLimit="10/minute", interfacePrefix="cali,tap")
    nft = dataplane_config(made, "h").nft
    assert (nft.nat_port_range, nft.log_rate, nft.interface_prefixes) == ("1024-2048", "10/minute", ("cali", "tap"))
    assert not made.warnings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("interfacePrefix", "none"),
        ("interfacePrefix", "cali*"),
        ("interfacePrefix", "a" * 16),
        ("defaultEndpointToHostAction", "none"),
        ("defaultEndpointToHostAction", "open"),
        ("nftablesFilterDenyAction", "accept"),
        ("nftablesMarkMask", "0x1"),
        ("nftablesMarkMask", "none"),
    ],
)
def test_what_decides_over_the_policing_itself_stops_the_agent(name: str, value: str) -> None:
    with pytest.raises(BadData, match="(?i)" + name):
        configuration(**{name: value})


def test_pass_takes_the_second_lowest_bit() -> None:
    assert pass_mark(0xFFFF0000) == 0x20000
    assert pass_mark(0x88) == 0x80


def test_a_pattern_is_gos_and_takes_linear_time() -> None:
    made = configuration(mtuIfacePattern="(a+)+$")
    assert made["MTUIfacePattern"] == "(a+)+$" and not made.warnings
    started = time.process_time()
    assert not go_search("^(a+)+$")("a" * 100_000 + "!")
    assert time.process_time() - started < 1
    assert go_search("th0")("eth0") and go_search(r"^\pL+\z")("eth"), "unanchored, in Go's syntax"
    (warning,) = configuration(mtuIfacePattern="(?=a)").warnings
    assert "MTUIfacePattern" in warning and "is no regular expression" in warning
