"""Keys of the datastore: typed in memory, paths in etcd (spec/datastore.md 1, 7; spec/ipam.md 1).

`key_path` and `parse_path` are inverse to each other. A path that no kind claims parses to None: it is skipped,
never an error.
"""

from __future__ import annotations

import functools
import sys
from typing import NamedTuple

from libcalico.errors import FieldError, ValidationError
from libcalico.model.kinds import KINDS, PLURALS

ROOT = "/calico/"
RESOURCES = "/calico/resources/v3/projectcalico.org/"
IPAM = "/calico/ipam/v2/"
BLOCKS = IPAM + "assignment/"
AFFINITIES = IPAM + "host/"
HANDLES = IPAM + "handle/"
KNOWN_SEGMENTS = 16384
LONGEST_CIDR = 64
FELIX_STATUS = "/calico/felix/v2/no-region/host/"


class ResourceKey(NamedTuple):
    """A v3 object: kind, name, and namespace for namespaced kinds."""

    kind: str
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.kind}({self.namespace}/{self.name})" if self.namespace else f"{self.kind}({self.name})"


class BlockKey(NamedTuple):
    """An IPAM block; `cidr` like `172.29.4.64/26`."""

    cidr: str

    def __str__(self) -> str:
        return f"BlockKey(cidr={self.cidr})"


class AffinityKey(NamedTuple):
    """The claim of a host (or of a virtual owner) to a block."""

    host: str
    cidr: str
    type: str = "host"

    def __str__(self) -> str:
        return f"BlockAffinityKey(cidr={self.cidr}, host={self.host}, affinityType={self.type})"


class HandleKey(NamedTuple):
    """The index of a handle: which blocks hold its addresses."""

    id: str

    def __str__(self) -> str:
        return f"IPAMHandleKey(id={self.id})"


class IPAMConfigKey(NamedTuple):
    """The one configuration object of IPAM."""

    def __str__(self) -> str:
        return "IPAMConfigKey()"


class HostStatusKey(NamedTuple):
    """The agent's heartbeat, under a lease."""

    host: str


class LastReportedStatusKey(NamedTuple):
    """The agent's last heartbeat, for ever."""

    host: str


class WorkloadStatusKey(NamedTuple):
    """Whether one workload endpoint is programmed. `workload` is `<namespace>/<workload>`."""

    host: str
    orchestrator: str
    workload: str
    endpoint: str


Key = (
    ResourceKey
    | BlockKey
    | AffinityKey
    | HandleKey
    | IPAMConfigKey
    | HostStatusKey
    | LastReportedStatusKey
    | WorkloadStatusKey
)


def key_path(key: Key) -> str:
    """The path of a key in etcd."""
    match key:
        case ResourceKey(kind, name, namespace):
            return list_prefix(kind, namespace) + name
        case BlockKey(cidr):
            return f"{BLOCKS}{_version(cidr)}/block/{_cidr_segment(cidr)}"
        case AffinityKey(host, cidr, kind):
            area = AFFINITIES if kind == "host" else f"{IPAM}{kind}/"
            return f"{area}{host}/{_version(cidr)}/block/{_cidr_segment(cidr)}"
        case HandleKey(handle):
            return HANDLES + handle
        case IPAMConfigKey():
            return IPAM + "config"
        case HostStatusKey(host):
            return f"{FELIX_STATUS}{host}/status"
        case LastReportedStatusKey(host):
            return f"{FELIX_STATUS}{host}/last_reported_status"
        case WorkloadStatusKey(host, orchestrator, workload, endpoint):
            return f"{FELIX_STATUS}{host}/workload/{orchestrator}/{_escape(workload)}/endpoint/{_escape(endpoint)}"


def list_prefix(kind: str, namespace: str = "") -> str:
    """What the paths of a kind, or of a kind's objects in one namespace, begin with."""
    area = f"{RESOURCES}{KINDS[kind].plural}/"
    return f"{area}{namespace}/" if namespace else area


ROUTING_KINDS = ("BGPConfiguration", "BGPFilter", "BGPPeer", "IPPool", "Node")
"""The kinds on which a node's BGP routing depends."""


def routing_prefixes(node: str) -> tuple[str, ...]:
    """What the paths of all on which a node's BGP routing depends begin with: `ROUTING_KINDS`, its own affinities."""
    return (*map(list_prefix, ROUTING_KINDS), f"{AFFINITIES}{node}/")


def parse_key(path: bytes) -> Key | None:
    """The key of a stored path, None if it is not one of ours; what is not UTF-8 is nobody's."""
    try:
        return parse_path(path.decode())
    except UnicodeDecodeError:
        return None


def parse_path(path: str) -> Key | None:
    """The key of a path, None if it is not one of ours."""
    if path.startswith(RESOURCES):
        return _parse_resource(path[len(RESOURCES) :].split("/"))
    if path.startswith(IPAM):
        return _parse_ipam(path[len(IPAM) :].split("/"))
    if path.startswith(FELIX_STATUS):
        return _parse_status(path[len(FELIX_STATUS) :].split("/"))
    return None


def _parse_resource(segments: list[str]) -> Key | None:
    kind = PLURALS.get(segments[0])
    if kind is None or "" in segments:
        return None
    if KINDS[kind].namespaced:
        return ResourceKey(kind, segments[2], sys.intern(segments[1])) if len(segments) == 3 else None
    return ResourceKey(kind, segments[1]) if len(segments) == 2 else None


def _parse_ipam(segments: list[str]) -> Key | None:
    match segments:
        case ["assignment", "ipv4" | "ipv6" as version, "block", cidr]:
            text = _cidr_text(cidr)
            return BlockKey(text) if text and _version(text) == version else None
        case ["host" | "virtual" as kind, host, "ipv4" | "ipv6" as version, "block", cidr]:
            text = _cidr_text(cidr)
            return AffinityKey(host, text, kind) if text and _version(text) == version else None
        case ["handle", handle]:
            return HandleKey(handle)
        case ["config"]:
            return IPAMConfigKey()
    return None


def _parse_status(segments: list[str]) -> Key | None:
    match segments:
        case [host, "status"]:
            return HostStatusKey(host)
        case [host, "last_reported_status"]:
            return LastReportedStatusKey(host)
        case [host, "workload", orchestrator, workload, "endpoint", endpoint]:
            return WorkloadStatusKey(host, orchestrator, _unescape(workload), _unescape(endpoint))
    return None


def _version(cidr: str) -> str:
    return "ipv6" if ":" in cidr else "ipv4"


def _cidr_segment(cidr: str) -> str:
    return cidr.replace("/", "-")


def _cidr_text(segment: str) -> str:
    """The CIDR of a path's segment, empty when it is none; what is longer than any is not remembered either."""
    return _known_cidr_text(segment) if len(segment) <= LONGEST_CIDR else ""


@functools.lru_cache(KNOWN_SEGMENTS)
def _known_cidr_text(segment: str) -> str:
    import ipaddress  # for keys of address blocks only

    address, _, length = segment.rpartition("-")
    try:
        text = str(ipaddress.ip_network(f"{address}/{length}"))
    except ValueError:
        return ""
    return text if _cidr_segment(text) == segment else ""  # two paths are never the same key


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2f")


def _unescape(text: str) -> str:
    return text.replace("%2f", "/").replace("%25", "%")


def workload_endpoint_name(node: str, orchestrator: str, workload: str, endpoint: str) -> str:
    """The name of a WorkloadEndpoint (spec/datastore.md 1.3).

    `workload` is the container id for orchestrator `cni`, the pod for `k8s`, and ignored for `libnetwork`.
    Raises `ValidationError` naming the part that is missing or begins or ends with a dash."""
    if orchestrator == "libnetwork":
        workload = "libnetwork"
    middle = {"k8s": "pod", "cni": "containerID"}.get(orchestrator, "workload")
    parts = (("node", node), ("orchestrator", orchestrator), (middle, workload), ("endpoint", endpoint))
    for field, part in parts:
        if not part:
            raise ValidationError([FieldError(field, "", "field should be assigned")])
        if part.startswith("-"):
            raise ValidationError([FieldError(field, part, "field must not begin with a '-'")])
        if part.endswith("-"):
            raise ValidationError([FieldError(field, part, "field must not end with a '-'")])
    return "-".join(part.replace("-", "--") for _field, part in parts)


def workload_endpoint_prefix(node: str, orchestrator: str = "", workload: str = "") -> str:
    """What the endpoint names of a node, or of one workload of it, begin with.

    A prefix read over-matches: compare the parts of what it finds (`split_workload_endpoint_name`)."""
    parts = [node]
    if orchestrator:
        parts.append(orchestrator)
        if workload or orchestrator == "libnetwork":
            parts.append("libnetwork" if orchestrator == "libnetwork" else workload)
    return "".join(part.replace("-", "--") + "-" for part in parts)


def split_workload_endpoint_name(name: str) -> tuple[str, str, str, str] | None:
    """(node, orchestrator, workload, endpoint) of an endpoint's name, None when it has not four parts. A dash of a part
    is written twice; one at the beginning of the name is no separator."""
    parts: list[str] = []
    for piece in name[1:].split("--"):
        first, *others = piece.split("-")
        if parts:
            parts[-1] += "-" + first
        else:
            parts.append(name[:1] + first)
        parts += others
    return (parts[0], parts[1], parts[2], parts[3]) if len(parts) == 4 else None
