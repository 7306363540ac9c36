"""What BIRD 2.0.12 and BIRD 1.6.8 were seen to answer, as values. Details that nothing reads are cut."""

from __future__ import annotations

import pytest

from libcalico.bird.names import SessionName, parse_session_name, session_name
from libcalico.bird.replies import (
    BirdStatus,
    Line,
    NextHop,
    Protocol,
    Route,
    parse_protocols,
    parse_routes,
    parse_status,
)
from libcalico.errors import BadData

STATUS_2 = """\
1000-BIRD 2.0.12
1011-Router ID is 10.0.4.17
 Hostname is vm
 Current server time is 2026-12-01 05:13:38.276
 Last reboot on 2026-12-01 05:13:23.313
 Last reconfiguration on 2026-12-01 05:13:23.313
0013 Daemon is up and running
"""
STATUS_1 = """\
1000-BIRD 1.6.8
1011-Router ID is 10.0.4.17
 Current server time is 2026-12-01 05:13:53
 Last reboot on 2026-12-01 05:13:39
 Last reconfiguration on 2026-12-01 05:13:39
0013 Daemon is up and running
"""
PROTOCOLS_2 = """\
2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     05:13:23     \x20
1006-
1002-direct1    Direct     ---        up     05:13:23     \x20
1006-  Channel ipv4
     State:          UP
     Table:          master4
   Channel ipv6
     State:          UP
     Table:          master6
\x20
1002-kernel4    Kernel     master4    up     05:13:23     \x20
1006-  Channel ipv4
     State:          UP
     Table:          master4
\x20
1002-kernel6    Kernel     master6    up     05:13:23     \x20
1006-  Channel ipv6
     State:          UP
     Table:          master6
\x20
1002-static4    Static     master4    up     05:13:23     \x20
1006-  Channel ipv4
     State:          UP
     Table:          master4
\x20
1002-static6    Static     master6    up     05:13:23     \x20
1006-  Channel ipv6
     State:          UP
     Table:          master6
\x20
1002-Mesh_10_0_4_18 BGP        ---        up     05:13:27      Established  \x20
1006-  BGP state:          Established
     Neighbor address: 10.0.4.18
     Neighbor AS:      64512
   Channel ipv4
     State:          UP
     Table:          master4
\x20
1002-Mesh_fd77__2 BGP        ---        up     05:13:27      Established  \x20
1006-  BGP state:          Established
     Neighbor address: fd77::2
     Neighbor AS:      64512
   Channel ipv6
     State:          UP
     Table:          master6
\x20
1002-Node_10_0_4_19_port_1790 BGP        ---        start  05:13:23      Active        Socket: No route to host
1006-  BGP state:          Active
     Neighbor address: 10.0.4.19
     Neighbor AS:      65001
     Last error:       Socket: No route to host
   Channel ipv4
     State:          DOWN
     Table:          master4
\x20
1002-Global_10_0_4_20 BGP        ---        down   05:13:23     \x20
1006-  BGP state:          Down
     Neighbor address: 10.0.4.20
     Neighbor AS:      65001
   Channel ipv4
     State:          DOWN
     Table:          master4
\x20
1002-Local_Workload_10_88_1_5 BGP        ---        start  05:13:23      Passive      \x20
1006-  BGP state:          Passive
     Neighbor address: 10.88.1.5
     Neighbor AS:      65001
   Channel ipv4
     State:          DOWN
     Table:          master4
\x20
0000\x20
"""
PROTOCOLS_1 = """\
2002-name     proto    table    state  since       info
1002-device1  Device   master   up     05:13:39   \x20
1006-
\x20
1002-direct1  Direct   master   up     05:13:39   \x20
1006-
\x20
1002-kernel1  Kernel   master   up     05:13:39   \x20
1006-
\x20
1002-static1  Static   master   up     05:13:39   \x20
1006-
\x20
1002-Mesh_10_0_4_18 BGP      master   up     05:13:42    Established  \x20
1006-
   BGP state:          Established
     Neighbor address: 10.0.4.18
     Neighbor AS:      64512
\x20
1002-Node_10_0_4_19 BGP      master   start  05:13:39    Connect       Socket: No route to host
1006-
   BGP state:          Connect
     Neighbor address: 10.0.4.19
     Neighbor AS:      65001
     Last error:       Socket: No route to host
\x20
1002-Global_10_0_4_20 BGP      master   down   05:13:39   \x20
1006-
   BGP state:          Down
     Neighbor address: 10.0.4.20
     Neighbor AS:      65001
\x20
0000\x20
"""
ROUTES_2 = """\
1007-Table master4:
 0.0.0.0/0            unicast [kernel4 05:13:23.360] * (10)
 \tvia 10.0.4.1 on up0
 10.98.0.0/24         unicast [static4 05:13:23.313] * (200)
 \tdev up0
 10.88.9.0/26         unreachable [static4 05:13:23.313] * (200)
 10.0.4.0/24          unicast [direct1 05:13:23.360] * (240)
 \tdev up0
 10.99.0.0/16         unicast [static4 05:13:23.313] * (200)
 \tvia 10.0.4.18 on up0 weight 1
 \tvia 10.0.4.19 on up0 weight 1
 10.88.2.0/26         unicast [Mesh_10_0_4_18 05:13:27.785] * (100) [i]
 \tvia 10.0.4.18 on up0
 10.88.1.0/26         blackhole [static4 05:13:23.313] * (200)
\x20
 Table master6:
 fd88:0:0:1::/122     blackhole [static6 05:13:23.313] * (200)
 fd88:0:0:2::/122     unicast [Mesh_fd77__2 05:13:30.861] * (100) [i]
 \tvia fd77::2 on up0
 fd77::/64            unicast [direct1 05:13:23.360] * (240)
 \tdev up0
0000\x20
"""
ROUTES_1 = """\
1007-0.0.0.0/0          via 10.0.4.1 on up0 [kernel1 05:13:39] * (10)
 10.0.4.0/24        dev up0 [direct1 05:13:39] * (240)
 10.88.9.0/26       unreachable [static1 05:13:39] * (200)
 10.88.2.0/26       via 10.0.4.18 on up0 [Mesh_10_0_4_18 05:13:42] * (100/0) [i]
 10.88.1.0/26       blackhole [static1 05:13:39] * (200)
 10.98.0.0/24       dev up0 [static1 05:13:39] * (200)
 10.99.0.0/16       multipath [static1 05:13:39] * (200)
 \tvia 10.0.4.18 on up0 weight 1
 \tvia 10.0.4.19 on up0 weight 1
0000\x20
"""
ROUTES_1_V6 = """\
1007-fd88:0:0:1::/122   blackhole [static1 05:13:39] * (200)
 fd88:0:0:2::/122   via fd77::2 on up0 [Mesh_fd77__2 05:13:42] * (100/0) [i]
 fd77::/64          dev up0 [direct1 05:13:39] * (240)
0000\x20
"""


def lines(text: str) -> list[Line]:
    """The lines as the client reads them off the socket."""
    found: list[Line] = []
    for one in text.splitlines():
        is_more = one.startswith(" ")
        found.append(Line(found[-1].code, one[1:]) if is_more else Line(int(one[:4]), one[5:]))
    return found


def test_status() -> None:
    assert parse_status(lines(STATUS_2)) == BirdStatus(
        "2.0.12", "10.0.4.17", "2026-12-01 05:13:38.276", "2026-12-01 05:13:23.313", "2026-12-01 05:13:23.313",
        "Daemon is up and running", False,
    )  # fmt: skip
    assert parse_status(lines(STATUS_1)).version == "1.6.8"
    assert parse_status(lines(STATUS_1)).last_reboot == "2026-12-01 05:13:39"


def test_graceful_restart_and_a_version_with_its_letter() -> None:
    text = (
        "1000-BIRD v1.6.8\n0024-Graceful restart recovery in progress\n   Waiting for 1 protocols to recover\n0013 x\n"
    )
    status = parse_status(lines(text))
    assert (status.version, status.graceful_restart, status.daemon) == ("1.6.8", True, "x")


def test_protocols_of_bird_2() -> None:
    rows = {row.name: row for row in parse_protocols(lines(PROTOCOLS_2))}
    assert len(rows) == 11
    assert rows["kernel4"] == Protocol("kernel4", "Kernel", "master4", "up", "05:13:23", "")
    assert rows["Mesh_fd77__2"] == Protocol(
        "Mesh_fd77__2", "BGP", "---", "up", "05:13:27", "Established", "Established", "fd77::2"
    )
    away = rows["Node_10_0_4_19_port_1790"]
    assert (away.info, away.bgp_state, away.neighbor) == (
        "Active        Socket: No route to host", "Active", "10.0.4.19",
    )  # fmt: skip
    assert (rows["Global_10_0_4_20"].info, rows["Global_10_0_4_20"].bgp_state) == ("", "Down")
    assert rows["Local_Workload_10_88_1_5"].bgp_state == "Passive"


def test_protocols_of_bird_1() -> None:
    rows = {row.name: row for row in parse_protocols(lines(PROTOCOLS_1))}
    assert rows["Mesh_10_0_4_18"] == Protocol(
        "Mesh_10_0_4_18", "BGP", "master", "up", "05:13:42", "Established", "Established", "10.0.4.18"
    )
    assert rows["Node_10_0_4_19"].bgp_state == "Connect"


def test_a_time_of_two_words_is_no_state() -> None:
    row = parse_protocols([Line(1002, "Mesh_10_0_4_18 BGP --- up 2026-12-01 05:13:23.313  Established   ")])[0]
    assert (row.since, row.info) == ("2026-12-01 05:13:23.313", "Established")
    assert parse_protocols([Line(1002, "Mesh_1 BGP --- up 2026-12-01 Established")])[0].since == "2026-12-01"


def test_routes_of_bird_2() -> None:
    assert parse_routes(lines(ROUTES_2)) == [
        Route("0.0.0.0/0", "unicast", "kernel4", True, (NextHop("10.0.4.1", "up0"),)),
        Route("10.98.0.0/24", "unicast", "static4", True, (NextHop("", "up0"),)),
        Route("10.88.9.0/26", "unreachable", "static4", True, ()),
        Route("10.0.4.0/24", "unicast", "direct1", True, (NextHop("", "up0"),)),
        Route("10.99.0.0/16", "unicast", "static4", True, (NextHop("10.0.4.18", "up0"), NextHop("10.0.4.19", "up0"))),
        Route("10.88.2.0/26", "unicast", "Mesh_10_0_4_18", True, (NextHop("10.0.4.18", "up0"),)),
        Route("10.88.1.0/26", "blackhole", "static4", True, ()),
        Route("fd88:0:0:1::/122", "blackhole", "static6", True, ()),
        Route("fd88:0:0:2::/122", "unicast", "Mesh_fd77__2", True, (NextHop("fd77::2", "up0"),)),
        Route("fd77::/64", "unicast", "direct1", True, (NextHop("", "up0"),)),
    ]


def test_routes_of_bird_1_are_those_of_bird_2() -> None:
    first = {route.destination: (route.kind, route.is_best, route.hops) for route in parse_routes(lines(ROUTES_1))}
    first |= {route.destination: (route.kind, route.is_best, route.hops) for route in parse_routes(lines(ROUTES_1_V6))}
    assert first == {
        route.destination: (route.kind, route.is_best, route.hops) for route in parse_routes(lines(ROUTES_2))
    }


def test_the_second_route_of_a_destination() -> None:
    text = [
        Line(1007, "10.88.2.0/26         unicast [Mesh_10_0_4_18 05:13:27.785] * (100) [i]"),
        Line(1007, "\tvia 10.0.4.18 on up0 onlink"),
        Line(1007, "                     unicast [Node_10_0_4_19 05:13:27.785 from 10.0.4.20] (100) [AS65001i]"),
        Line(1007, "\tvia 10.0.4.19 on up0"),
        Line(1007, "                     blackhole [static4 2026-12-01 05:13:27.785] ! (90)"),
    ]
    assert parse_routes(text) == [
        Route("10.88.2.0/26", "unicast", "Mesh_10_0_4_18", True, (NextHop("10.0.4.18", "up0"),)),
        Route("10.88.2.0/26", "unicast", "Node_10_0_4_19", False, (NextHop("10.0.4.19", "up0"),)),
        Route("10.88.2.0/26", "blackhole", "static4", False, ()),
    ]


@pytest.mark.parametrize(
    "text", ["x", "10.0.0.0/8 unicast", "10.0.0.0/8 unicast [", "10.0.0.0/8 unicast [] (1)", "10.0.0.0/8 via [a b] (1)",
             " unicast [kernel4 1] (1)", "[k 1]"],
)  # fmt: skip
def test_what_is_no_route(text: str) -> None:
    with pytest.raises(BadData, match="of BIRD's"):
        parse_routes([Line(1007, text)])


def test_what_is_no_status_and_no_row() -> None:
    with pytest.raises(BadData, match="no version"):
        parse_status([Line(13, "Daemon is up and running")])
    with pytest.raises(BadData, match="no row"):
        parse_protocols([Line(1002, "a b c")])


@pytest.mark.parametrize(
    ("name", "parts", "peer"),
    [
        ("Mesh_10_0_5_21", SessionName("Mesh", "10.0.5.21"), "10.0.5.21"),
        ("Global_fd77__2", SessionName("Global", "fd77::2"), "fd77::2"),
        ("Node_10_0_5_21_port_1790", SessionName("Node", "10.0.5.21", 1790), "10.0.5.21:1790"),
        ("Node_fd77__2_port_1790", SessionName("Node", "fd77::2", 1790), "[fd77::2]:1790"),
        ("Local_Workload_10_88_1_5", SessionName("Local_Workload", "10.88.1.5"), "10.88.1.5"),
    ],
)
def test_session_names(name: str, parts: SessionName, peer: str) -> None:
    assert parse_session_name(name) == parts
    assert (parts.peer, parts.family) == (peer, 6 if ":" in parts.address else 4)
    assert session_name(*parts) == name


@pytest.mark.parametrize("name", ["kernel4", "static4", "Mesh", "Mesh_", "mesh_10_0_5_21", ""])
def test_names_of_others(name: str) -> None:
    assert parse_session_name(name) is None
