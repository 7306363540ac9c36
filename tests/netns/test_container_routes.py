"""The routes inside a container that has several interfaces, ours and other people's."""

from __future__ import annotations

import os
import socket

import pytest

from libcalico.workload.attach import attach, complete, detach, inspect, is_used_elsewhere
from libcalico.workload.plan import Wiring, plan_wiring
from libcalico.workload.routes import DefaultRouteTaken
from tests.netns.spaces import Space

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

BOTH = frozenset({socket.AF_INET, socket.AF_INET6})


def wiring(number: int) -> Wiring:
    return plan_wiring(f"cali{number}", f"eth{number}", [f"172.29.0.{number + 1}", f"fd29::{number + 1}"])


def defaults(box: Space, family: str = "-4") -> list[tuple[str, int]]:
    """Device and metric of each default route whose gateway can be reached."""
    routes = box.ip(family, "route")
    linked = {(r["dev"], r.get("metric", 0)) for r in routes if r["dst"] == "169.254.1.1"}
    found = [(r["dev"], r.get("metric", 0)) for r in routes if r["dst"] == "default"]
    return sorted(route for route in found if family == "-6" or route in linked)


def foreign_default(box: Space, metric: int = 0) -> None:
    box.ip("link", "add", "net0", "type", "veth", "peer", "name", "net1")
    box.ip("link", "set", "net0", "up")
    box.ip("link", "set", "net1", "up")
    box.ip("addr", "add", "10.50.0.2/24", "dev", "net0")
    box.ip("route", "add", "default", "via", "10.50.0.1", "metric", str(metric))


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_each_interface_has_routes_of_its_own_whichever_goes_first(
    host: Space, box: Space, order: tuple[int, int, int]
) -> None:
    for number in range(3):
        attach(wiring(number), box.path, host.path)
    wanted = {0: ("eth0", 0), 1: ("eth1", 1), 2: ("eth2", 2)}
    for gone in order:
        assert defaults(box) == sorted(wanted.values())
        assert defaults(box, "-6") == sorted((name, metric + 1024) for name, metric in wanted.values())
        detach(box.path, f"eth{gone}", [f"cali{gone}"], host.path)
        del wanted[gone]
    assert defaults(box) == defaults(box, "-6") == []


def test_an_interface_that_comes_later_never_goes_before_one_that_stands(host: Space, box: Space) -> None:
    for number in (0, 1):
        attach(wiring(number), box.path, host.path)
    detach(box.path, "eth0", ["cali0"], host.path)
    attach(wiring(2), box.path, host.path)
    assert defaults(box) == [("eth1", 1), ("eth2", 2)]


def test_a_foreign_default_route_is_a_refusal_and_stays(host: Space, box: Space) -> None:
    foreign_default(box)
    before = box.ip("route")
    with pytest.raises(DefaultRouteTaken, match=r"failed to add IPv4 route for 0.0.0.0/0 via 169.254.1.1: file exists"):
        attach(wiring(0), box.path, host.path)
    assert box.ip("route") == before
    assert (host.links(), "eth0" in box.links()) == (["lo"], False)


def test_a_foreign_ipv6_default_route_is_a_refusal_and_stays(host: Space, box: Space) -> None:
    box.ip("link", "add", "net0", "type", "veth", "peer", "name", "net1")
    for name in ("net0", "net1"):
        box.ip("link", "set", name, "up")
    box.ip("-6", "route", "add", "default", "dev", "net0", "metric", "1024")
    with pytest.raises(
        DefaultRouteTaken, match=r"failed to add IPv6 route for ::/0 via fe80::ecee:eeff:feee:eeee: file"
    ):
        attach(wiring(0), box.path, host.path)
    assert (defaults(box, "-6"), host.links()) == ([("net0", 1024)], ["lo"])


def test_metrics_that_others_use_are_passed_over(host: Space, box: Space) -> None:
    attach(wiring(0), box.path, host.path)
    foreign_default(box, metric=1)
    attach(wiring(1), box.path, host.path)
    assert defaults(box) == [("eth0", 0), ("eth1", 2)]
    assert {(r["dev"], r.get("metric")) for r in box.ip("route") if r["dst"] == "default"} >= {("net0", 1)}


@pytest.mark.parametrize("what", ["default", "169.254.1.1"])
def test_lost_and_changed_routes_are_seen_and_made_again(host: Space, box: Space, what: str) -> None:
    for number in (0, 1):
        attach(wiring(number), box.path, host.path)
    whole = (box.ip("route"), box.ip("-6", "route"))
    box.ip("route", "del", what, "dev", "eth1")
    assert inspect(box.path, "eth1", "cali1", host.path).families == {socket.AF_INET6}
    assert inspect(box.path, "eth0", "cali0", host.path).families == BOTH
    box.ip("-6", "route", "del", "default", "dev", "eth1")
    assert inspect(box.path, "eth1", "cali1", host.path).families == frozenset()
    complete(wiring(1), box.path, host.path)
    assert (box.ip("route"), box.ip("-6", "route")) == whole
    box.ip("route", "replace", "default", "dev", "eth0")
    assert inspect(box.path, "eth0", "cali0", host.path).families == {socket.AF_INET6}
    complete(wiring(0), box.path, host.path)
    assert inspect(box.path, "eth0", "cali0", host.path).families == BOTH


def test_a_moved_default_route_counts(host: Space, box: Space) -> None:
    """A later plug-in of a chain (sbr) moves it into a table of its own."""
    attach(wiring(0), box.path, host.path)
    box.ip("route", "add", "default", "via", "169.254.1.1", "dev", "eth0", "table", "100")
    box.ip("route", "del", "default", "table", "main", "dev", "eth0")
    assert inspect(box.path, "eth0", "cali0", host.path).families == BOTH


def test_inspection_tells_a_renamed_interface_from_one_elsewhere(host: Space, box: Space, other: Space) -> None:
    attach(wiring(0), box.path, host.path)
    other.ip("link", "add", "eth0", "type", "veth", "peer", "name", "x0")
    assert not inspect(other.path, "eth0", "cali0", host.path).leads_here
    assert is_used_elsewhere(other.path, "cali0", host.path)
    box.ip("link", "set", "eth0", "down")
    box.ip("link", "set", "eth0", "name", "mine")
    seen = inspect(box.path, "eth0", "cali0", host.path)
    assert (seen.container, seen.far_name, seen.is_wired) == (None, "mine", False)
    assert not is_used_elsewhere(box.path, "cali0", host.path)
    assert not is_used_elsewhere(box.path, "cali1", host.path)
