"""What the dataplane needs of the agent's parameters."""

from __future__ import annotations

from typing import NamedTuple

from calico_felix.dataplane.mtu import HOST_INTERFACES
from libcalico.kernel.objects import RTPROT_BOOT, RTPROT_CALICO
from libcalico.policy.nft.rules import NftOptions


class DataplaneConfig(NamedTuple):
    """`host` is this node's name; the MTUs are in octets, 0 = from the underlay. `vxlan_enabled` and
    `ipip_enabled`: None = as the pools want it. `device_protocol` is that of routes to workloads and through VXLAN.
    `program_ipip`: the agent writes the routes of IPIP pools, and not BIRD.

    `mtu_file` is where the CNI plug-in finds the MTU of workloads ("": it is not written), `mtu_pattern` a regular
    expression for the names of the interfaces from which it is taken."""

    host: str
    nft: NftOptions
    vxlan_vni: int = 4096
    vxlan_mtu: int = 0
    vxlan_mtu_v6: int = 0
    ipip_mtu: int = 0
    vxlan_enabled: bool | None = None
    ipip_enabled: bool | None = None
    program_ipip: bool = True
    ipv6: bool = True
    device_protocol: int = RTPROT_BOOT
    mtu_file: str = ""
    mtu_pattern: str = HOST_INTERFACES

    @property
    def route_protocol(self) -> int:
        """The protocol number of all other routes of ours."""
        return RTPROT_CALICO if self.device_protocol == RTPROT_BOOT else self.device_protocol
