"""The agent's parameters that have an effect; names and defaults are upstream's (spec/felix-config.md).

Upstream's others are in `foreign`: what is set of them is reported as without effect. A test shows the effect of each
parameter (`test_settings_effects.py`)."""

from __future__ import annotations

from collections.abc import Callable

from calico_felix.dataplane.config import DataplaneConfig
from calico_felix.dataplane.mtu import HOST_INTERFACES
from libcalico.calc.routes import IPIP, PLAIN, VXLAN
from libcalico.config import (
    Configuration,
    Parameter,
    boolean,
    file_path,
    integer,
    matching,
    one_of,
    port_range,
    seconds,
    socket_path,
    words,
)
from libcalico.conventions import INTERFACE_PREFIX, MTU_FILE, NODE_SOCKET, STATE_DIRECTORY
from libcalico.model.go_regex import go_search
from libcalico.policy.nft.rules import NftOptions
from libcalico.workload.plan import LEAST_MTU_V6

LARGEST_PORT = 65535
LEAST_TUNNEL_MTU = 552
"""What DC/OS's installer takes at least."""
PASS_BIT = 1  # the second lowest bit of the mark mask, as upstream counts

CLUSTER_ROUTES = {
    "enabled": (IPIP, PLAIN), "disabled": (), "enabledipiponly": (IPIP,), "enablednoencaponly": (PLAIN,),
}  # fmt: skip
SEVERITIES = ("trace", "debug", "info", "warning", "error", "fatal")

_NODE_NAME = matching(r"[a-zA-Z0-9_.-]{1,253}", "a node's name")
_HOST = matching(r"[a-zA-Z0-9:._+-]{1,64}", "an address or a host name")
_RATE = matching(r"([1-9]\d{0,3}/(second|minute|hour|day))?", "a rate such as 10/second")
_PREFIX_LIST = matching(r"[a-zA-Z0-9_-]{1,15}(,[a-zA-Z0-9_-]{1,15})*", "a list of interface name prefixes")


def interface_prefixes(text: str) -> tuple[str, ...]:
    """Prefixes with a comma between them: what they match is policed, so a bad one must stop the agent."""
    return words(_PREFIX_LIST(text))


def severity(text: str) -> str:
    """A severity in lower case; no text, which `none` becomes, is no logging."""
    return one_of(*SEVERITIES)(text) if text else ""


def host_or_all(text: str) -> str:
    """Where to listen; no text is every address."""
    return _HOST(text) if text else ""


def pattern(text: str) -> str:
    """A regular expression as Go reads it."""
    try:
        go_search(text)
    except ValueError as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


def tunnel_mtu(least: int) -> Callable[[str], int]:
    """Reads a tunnel's MTU in octets: 0, which is "from the underlay", or a number that is not below `least`."""
    number = integer(0, LARGEST_PORT)

    def read(text: str) -> int:
        found = number(text)
        if 0 < found < least:
            raise ValueError(f"is below {least} (0 takes it from the underlay)")
        return found

    return read


OTHER_PROTOCOLS = frozenset((1, 2, 4, 9, 12, 16, *range(186, 193)))
"""Those of routes that the kernel, an administrator or another program makes (linux/rtnetlink.h, `RTPROT_*`)."""


def route_protocol(text: str) -> int:
    """The protocol number of routes: what has it and is not wanted is removed."""
    number = integer(1, 255)(text)
    if number in OTHER_PROTOCOLS:
        raise ValueError("is the number of other programs' routes, which would be removed")
    return number


def mark_mask(text: str) -> int:
    """Bits of the packet mark; one of them is not enough."""
    mask = integer(1, 0xFFFFFFFF)(text)
    if mask.bit_count() <= PASS_BIT:
        raise ValueError("has fewer than two bits")
    return mask


PARAMETERS = (
    Parameter(
        "DatastoreType",
        one_of("etcdv3"),
        "etcdv3",
        "kind of datastore: no other is supported",
        datastore=False,
        fatal=True,
        none_refused=True,
    ),
    Parameter(
        "FelixHostname",
        _NODE_NAME,
        "",
        "name of this node; default: nodename file, else the host name",
        datastore=False,
        none_refused=True,
    ),
    Parameter("EtcdEndpoints", words, (), "URLs of etcd", datastore=False),
    Parameter("EtcdAddr", str, "127.0.0.1:2379", "host:port of etcd when EtcdEndpoints is empty", datastore=False),
    Parameter("EtcdScheme", one_of("http", "https"), "http", "scheme that goes with EtcdAddr", datastore=False),
    Parameter("EtcdKeyFile", str, "", "client key", datastore=False),
    Parameter("EtcdCertFile", str, "", "client certificate", datastore=False),
    Parameter("EtcdCaFile", str, "", "certificate authority of etcd", datastore=False),
    Parameter("NodeSocket", socket_path, NODE_SOCKET, "UNIX socket of the node API", datastore=False),
    Parameter(
        "StateDirectory",
        file_path,
        STATE_DIRECTORY,
        "folder of what outlasts a restart: DELs to finish; CALICO_STATE_DIRECTORY is the plug-in's when no agent runs",
        datastore=False,
    ),
    Parameter("LogSeverityScreen", severity, "info", "least severity that is logged; `none`: no logging", live=True),
    Parameter("LogPrefix", str, "calico-packet", "prefix of the kernel log entries of Log rules"),
    Parameter("LogActionRateLimit", _RATE, "", "limit of those entries, for example 10/second"),
    Parameter(
        "InterfacePrefix",
        interface_prefixes,
        (INTERFACE_PREFIX,),
        "prefixes of workload interfaces",
        fatal=True,
        none_refused=True,
    ),
    Parameter(
        "DefaultEndpointToHostAction",
        one_of("drop", "accept", "return"),
        "drop",
        "workload to its own host",
        fatal=True,
        none_refused=True,
    ),
    Parameter(
        "NftablesFilterDenyAction", one_of("drop", "reject"), "drop", "what Deny does", fatal=True, none_refused=True
    ),
    Parameter("NftablesMarkMask", mark_mask, 0xFFFF0000, "mark bits that we may use", fatal=True, none_refused=True),
    Parameter("DisableConntrackInvalidCheck", boolean, False, "let packets through that conntrack calls invalid"),
    Parameter("AllowVXLANPacketsFromWorkloads", boolean, False, "workloads may send VXLAN"),
    Parameter("AllowIPIPPacketsFromWorkloads", boolean, False, "workloads may send IPIP"),
    Parameter("IpInIpEnabled", boolean, None, "the IPIP device is made; None: when a pool needs it"),
    Parameter("IpInIpMtu", tunnel_mtu(LEAST_TUNNEL_MTU), 0, "MTU of tunl0 in bytes, 0: from the underlay"),
    Parameter(
        "ProgramClusterRoutes",
        one_of(*CLUSTER_ROUTES),
        "enabledipiponly",
        "of which pools, beside those with VXLAN, the agent writes the routes to other hosts; BIRD does the rest",
    ),
    Parameter("VXLANEnabled", boolean, None, "VXLAN of IPv4 is on, or all of it off; None: when a pool needs it"),
    Parameter("VXLANPort", integer(1, LARGEST_PORT), 4789, "UDP port of VXLAN"),
    Parameter("VXLANVNI", integer(1, 0xFFFFFF), 4096, "VXLAN network identifier"),
    Parameter("VXLANMTU", tunnel_mtu(LEAST_TUNNEL_MTU), 0, "MTU of vxlan.calico in bytes, 0: from the underlay"),
    Parameter("VXLANMTUV6", tunnel_mtu(LEAST_MTU_V6), 0, "MTU of vxlan-v6.calico in bytes, 0: from the underlay"),
    Parameter("MTUIfacePattern", pattern, HOST_INTERFACES, "names of the interfaces whose smallest MTU is the host's"),
    Parameter(
        "MTUFile",
        file_path,
        MTU_FILE,
        "file for the MTU of workloads, which the CNI plug-in reads",
        datastore=False,
    ),
    Parameter("NATPortRange", port_range, "", "source ports of outgoing NAT, low-high"),
    Parameter("IPv6Support", boolean, True, "program IPv6"),
    Parameter("IPForwarding", one_of("enabled", "disabled"), "enabled", "switch forwarding on"),
    Parameter("DeviceRouteProtocol", route_protocol, 3, "protocol number of routes to workloads"),
    Parameter("ReportingIntervalSecs", seconds, 30.0, "seconds between status reports to etcd, 0: none"),
    Parameter("ReportingTTLSecs", seconds, 90.0, "seconds until a status report is void"),
    Parameter("EndpointReportingEnabled", boolean, False, "write the state of each endpoint to etcd"),
    Parameter("PrometheusMetricsEnabled", boolean, False, "serve /metrics", live=True),
    Parameter("PrometheusMetricsHost", host_or_all, "", "address to serve metrics on, empty: all", live=True),
    Parameter("PrometheusMetricsPort", integer(0, LARGEST_PORT), 9091, "port of /metrics", live=True),
    Parameter("HealthEnabled", boolean, False, "serve /liveness and /readiness", live=True),
    Parameter("HealthHost", _HOST, "localhost", "address to serve health on", live=True),
    Parameter("HealthPort", integer(0, LARGEST_PORT), 9099, "port of health", live=True),
)


def pass_mark(mask: int) -> int:
    """The mark bit that means Pass: the second lowest of the mask."""
    bits = [1 << place for place in range(32) if mask >> place & 1]
    return bits[PASS_BIT] if len(bits) > PASS_BIT else bits[0]


def programmed(configuration: Configuration) -> frozenset[str]:
    """The encapsulations of pools whose routes to other hosts the agent writes (ADR 55)."""
    return frozenset((VXLAN, *CLUSTER_ROUTES[configuration["ProgramClusterRoutes"]]))


def dataplane_config(configuration: Configuration, host: str) -> DataplaneConfig:
    """What the dataplane needs, from the parameters."""
    get = configuration.__getitem__
    nft = NftOptions(
        interface_prefixes=get("InterfacePrefix"),
        pass_mark=pass_mark(get("NftablesMarkMask")),
        deny=get("NftablesFilterDenyAction"),
        endpoint_to_host=get("DefaultEndpointToHostAction"),
        check_invalid=not get("DisableConntrackInvalidCheck"),
        log_prefix=_printable(get("LogPrefix")),
        log_rate=get("LogActionRateLimit"),
        vxlan_port=get("VXLANPort"),
        allow_vxlan_from_workloads=get("AllowVXLANPacketsFromWorkloads"),
        allow_ipip_from_workloads=get("AllowIPIPPacketsFromWorkloads"),
        nat_port_range=get("NATPortRange").replace(":", "-"),
    )
    return DataplaneConfig(
        host=host,
        nft=nft,
        vxlan_vni=get("VXLANVNI"),
        vxlan_mtu=get("VXLANMTU"),
        vxlan_mtu_v6=get("VXLANMTUV6"),
        ipip_mtu=get("IpInIpMtu"),
        vxlan_enabled=get("VXLANEnabled"),
        ipip_enabled=get("IpInIpEnabled"),
        program_ipip=IPIP in programmed(configuration),
        ipv6=get("IPv6Support"),
        device_protocol=get("DeviceRouteProtocol"),
        mtu_file=get("MTUFile"),
        mtu_pattern=get("MTUIfacePattern"),
    )


def _printable(text: str) -> str:
    return "".join(
        character for character in text if character.isascii() and (character.isalnum() or character in "-_:/% ")
    )
