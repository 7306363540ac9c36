"""What the dataplane needs of the agent's parameters."""

from __future__ import annotations

from typing import NamedTuple

from calico_felix.dataplane.mtu import HOST_INTERFACES
from libcalico.kernel.objects import RTPROT_BOOT
from libcalico.policy.nft.rules import NftOptions


class DataplaneConfig(NamedTuple):
    """`host` is this node's name; `vxlan_mtu` and `vxlan_mtu_v6` in octets, 0 = from the underlay; `device_protocol`
    of workload routes.

    `mtu_file` is where the CNI plug-in finds the MTU of workloads ("": it is not written), `mtu_pattern` a regular
    expression for the names of the interfaces from which it is taken."""

    host: str
    nft: NftOptions
    vxlan_vni: int = 4096
    vxlan_mtu: int = 0
    vxlan_mtu_v6: int = 0
    ipv6: bool = True
    device_protocol: int = RTPROT_BOOT
    mtu_file: str = ""
    mtu_pattern: str = HOST_INTERFACES
