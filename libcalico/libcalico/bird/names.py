"""The names that our BGP sessions have in BIRD, and what they say (spec/bgp.md 8.2). Pure.

Scope, address, and port where it is not 179: `Mesh_10_0_5_21`, `Node_fd77__2_port_1790`.
"""

from __future__ import annotations

from typing import NamedTuple

MESH, GLOBAL, NODE, LOCAL_WORKLOAD = "Mesh", "Global", "Node", "Local_Workload"
SCOPES = (MESH, GLOBAL, NODE, LOCAL_WORKLOAD)
PORT = "_port_"
IPV4_PARTS = 4


class SessionName(NamedTuple):
    """What a name says; `port` is 0 where it says none."""

    scope: str
    address: str
    port: int = 0

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4

    @property
    def peer(self) -> str:
        """The peer, for people: `10.0.5.21`, `10.0.5.21:1790`, `[fd77::2]:1790`."""
        if not self.port:
            return self.address
        return f"[{self.address}]:{self.port}" if self.family == 6 else f"{self.address}:{self.port}"


def session_name(scope: str, address: str, port: int = 0) -> str:
    """The name of a session with this peer; `port` 0 is the usual one."""
    suffix = f"{PORT}{port}" if port else ""
    return f"{scope}_{address.replace('.', '_').replace(':', '_')}{suffix}"


def parse_session_name(name: str) -> SessionName | None:
    """What the name of one of our sessions says; None for a name of another form."""
    scope = next((one for one in SCOPES if name.startswith(f"{one}_")), None)
    if scope is None or len(name) == len(scope) + 1:
        return None
    rest = name[len(scope) + 1 :]
    head, mark, digits = rest.rpartition(PORT)
    port = 0
    if mark and digits.isascii() and digits.isdigit() and len(digits) <= 5:
        rest, port = head, int(digits)
    parts = rest.split("_")
    is_v4 = len(parts) == IPV4_PARTS and all(one.isascii() and one.isdigit() for one in parts)
    return SessionName(scope, ("." if is_v4 else ":").join(parts), port)
