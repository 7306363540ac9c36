"""What is wanted of an attachment, and what was made: plain values that every front makes and reads. Pure.

An attachment is one interface of one workload: its addresses, its endpoint in the datastore, its veth pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from libcalico.conventions import INTERFACE_PREFIX
from libcalico.model.keys import ResourceKey, workload_endpoint_name
from libcalico.model.resources import WorkloadEndpointPort
from libcalico.workload import plan
from libcalico.workload.names import KIND, endpoint_segment

CNI = "cni"
"""The orchestrator of workloads that are attached as a whole. Their workload is a container id."""
DEFAULT_NAMESPACE = "default"
POLICY_TIMEOUT_S = 2.0
_TEMPORARY = "temp"


class Identity(NamedTuple):
    """Which attachment. `interface` is the interface's name in the container where the orchestrator is `cni`, else
    whatever tells the workload's endpoints apart."""

    node: str
    namespace: str
    workload: str
    interface: str
    orchestrator: str = CNI

    @property
    def segment(self) -> str:
        """`spec.endpoint` of the endpoint."""
        return endpoint_segment(self.interface)

    @property
    def key(self) -> ResourceKey:
        """Of the endpoint."""
        name = workload_endpoint_name(self.node, self.orchestrator, self.workload, self.segment)
        return ResourceKey(KIND, name, self.namespace)

    @property
    def text(self) -> str:
        """For logs, and the owner of a host interface's name."""
        return f"{self.workload}/{self.interface}"

    @property
    def container(self) -> str:
        """The name of the lock at this container."""
        return f"calico {self.workload if self.orchestrator == CNI else self.text}"

    @property
    def usual_interface(self) -> str:
        """The usual name of the host interface: of the container, or of the endpoint where that is what is unique."""
        return plan.host_interface_name(self.workload if self.orchestrator == CNI else self.interface)

    @property
    def hashed_interface(self) -> str:
        """Its name when the usual one is another's."""
        return plan.hashed_interface_name(self.workload, self.interface)


class AddressRequest(NamedTuple):
    """`fixed` addresses (bare, canonical), or one of each version that is wanted, of these pools (CIDRs or names; none:
    all that serve the node)."""

    fixed: tuple[str, ...] = ()
    want_v4: bool = True
    want_v6: bool = False
    pools_v4: tuple[str, ...] = ()
    pools_v6: tuple[str, ...] = ()


class Device(NamedTuple):
    """The veth pair. `mtu` in octets, 0 = the kernel's; `mac` "" = a random one."""

    mac: str = ""
    mtu: int = 0
    queues: int = 1
    allow_ip_forwarding: bool = False


class Attachment(NamedTuple):
    """What is wanted. `network` is the profile too; `needs_profile`: it is made when it is missing.

    `is_closed`: a new endpoint lets no packet through until it is put again without this.
    `netns_path` "": there is no namespace (any more), or the interface stays in the host's for an engine to move."""

    identity: Identity
    network: str
    netns_path: str = ""
    addresses: AddressRequest = AddressRequest()
    device: Device = Device()
    labels: Mapping[str, str] = {}
    ports: tuple[WorkloadEndpointPort, ...] = ()
    needs_profile: bool = True
    policy_timeout_s: float = POLICY_TIMEOUT_S
    is_closed: bool = False
    given_handle: str = ""

    @property
    def handle(self) -> str:
        """The IPAM handle of the attachment: a given one, else network and container."""
        return self.given_handle or (self.handle_in(self.network) if self.network else "")

    def handle_in(self, network: str) -> str:
        """The handle that the workload has in a network."""
        return f"{network}.{self.identity.workload}"


class Attached(NamedTuple):
    """What was made. `cidrs` with their prefix lengths; `container_interface` where it stands before an engine moves
    it; `is_new`: no endpoint was stored before."""

    cidrs: tuple[str, ...]
    host_interface: str
    container_interface: str
    mac: str
    is_new: bool = True


def temporary_interface(host_interface: str) -> str:
    """The name of a pair's other end until an engine moves and renames it."""
    return _TEMPORARY + host_interface.removeprefix(INTERFACE_PREFIX)
