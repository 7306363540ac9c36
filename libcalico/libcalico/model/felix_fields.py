"""The members of a FelixConfiguration's spec, in the order in which upstream's clients store them.

One row each: JSON name, type, and what values are allowed (spec/resources.md 9). What the agent does with a
parameter, and its default there, is in the agent's own table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from libcalico.model.wire_types import DSCP, Duration, Port, Uint16, Uint32


class _Part(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename="camel", gc=False
):
    pass


class ProtoPort(_Part, frozen=True, omit_defaults=False):
    """A port that is always open; `port` is always written."""

    protocol: str | msgspec.UnsetType = msgspec.UNSET
    port: Uint16 = 0
    net: str | msgspec.UnsetType = msgspec.UNSET


class HealthTimeoutOverride(_Part, frozen=True, omit_defaults=False):
    """How long one part of the agent may be silent."""

    name: str = ""
    timeout: Duration = "0s"


class RouteTableRange(_Part, frozen=True, omit_defaults=False):
    """First and last routing table."""

    min: int = 0
    max: int = 0


class ConntrackTimeouts(_Part, frozen=True):
    """Timeouts of the BPF conntrack: a duration or `Auto`."""

    creation_grace_period: str | None = None
    tcp_syn_sent: str | None = None
    tcp_established: str | None = None
    tcp_fins_seen: str | None = None
    tcp_reset_seen: str | None = None
    udp_timeout: str | None = None
    generic_timeout: str | None = None
    icmp_timeout: str | None = None


TYPES: dict[str, Any] = {
    "string": str,
    "bool": bool,
    "int": int,
    "uint32": Uint32,
    "duration": Duration,
    "strings": list[str],
    "port": Port,
    "ports": list[Port],
    "protoports": list[ProtoPort],
    "objects": list[HealthTimeoutOverride],
    "range": RouteTableRange,
    "ranges": list[RouteTableRange],
    "object": ConntrackTimeouts,
    "map": dict[str, str],
    "dscp": DSCP,
}
# Members that are stored even when empty, and those whose emptiness is an error.
KEPT_EMPTY = frozenset(
    ("debugHost", "healthHost", "prometheusMetricsCAFile", "prometheusMetricsCertFile", "prometheusMetricsKeyFile",
     "nodeSelector", "bpfLogLevel", "istioDSCPMark", "kubeNodePortRanges", "externalNodesList",
     "failsafeInboundHostPorts", "failsafeOutboundHostPorts", "routeTableRanges", "bpfDSROptoutCIDRs",
     "bpfExcludeCIDRsFromNAT", "bpfForceTrackPacketsFromIfaces", "logActionRateLimit", "flowLogsGoldmaneServer",
     "awsSrcDstCheck", "bpfAttachType", "bpfConnectTimeLoadBalancing", "bpfConntrackMode",
     "bpfHostNetworkedNATWithoutCTLB", "bpfJITHardening", "bpfOverlayHostSourceIP", "floatingIPs",
     "flowLogsLocalReporter", "flowLogsPolicyEvaluationMode", "iptablesBackend", "istioAmbientMode",
     "localSubnetL2Reachability", "natOutgoingExclusions", "nftablesMode", "nftablesFlowTableOffload",
     "programClusterRoutes", "prometheusMetricsClientAuth", "windowsManageFirewallRules")
)  # fmt: skip


class FelixField(NamedTuple):
    """`one_of` are the words allowed, compared without case if `any_case`; `form` names a pattern."""

    name: str
    type: str
    one_of: tuple[str, ...] = ()
    any_case: bool = False
    minimum: int | None = None
    maximum: int | None = None
    longest: int | None = None
    form: str = ""


def _field(
    name: str,
    kind: str,
    one_of: tuple[str, ...] = (),
    any_case: bool = False,
    minimum: int | None = None,
    maximum: int | None = None,
    longest: int | None = None,
    form: str = "",
) -> FelixField:
    return FelixField(name, kind, one_of, any_case, minimum, maximum, longest, form)


_ROWS = (
    _field("nodeSelector", "string", longest=1024),
    _field("useInternalDataplaneDriver", "bool"),
    _field("dataplaneDriver", "string"),
    _field("dataplaneWatchdogTimeout", "duration"),
    _field("ipv6Support", "bool"),
    _field("routeRefreshInterval", "duration"),
    _field("interfaceRefreshInterval", "duration"),
    _field("iptablesRefreshInterval", "duration"),
    _field("iptablesPostWriteCheckInterval", "duration"),
    _field("iptablesLockProbeInterval", "duration"),
    _field("featureDetectOverride", "string", form="key=value list"),
    _field("featureGates", "string", form="key=value list"),
    _field("ipsetsRefreshInterval", "duration"),
    _field("maxIpsetSize", "int"),
    _field("iptablesBackend", "string", one_of=("Legacy", "NFT", "Auto")),
    _field("xdpRefreshInterval", "duration"),
    _field("netlinkTimeout", "duration"),
    _field("metadataAddr", "string"),
    _field("metadataPort", "int"),
    _field("openstackRegion", "string"),
    _field("interfacePrefix", "string"),
    _field("interfaceExclude", "string"),
    _field("chainInsertMode", "string", one_of=("Insert", "Append"), any_case=True),
    _field("defaultEndpointToHostAction", "string", one_of=("Drop", "Accept", "Return"), any_case=True),
    _field("iptablesFilterAllowAction", "string", one_of=("Accept", "Return"), any_case=True),
    _field("iptablesMangleAllowAction", "string", one_of=("Accept", "Return"), any_case=True),
    _field("iptablesFilterDenyAction", "string", one_of=("Drop", "Reject"), any_case=True),
    _field("logPrefix", "string", form="log prefix"),
    _field("logActionRateLimit", "string", form="rate"),
    _field("logActionRateLimitBurst", "int", minimum=0, maximum=9999),
    _field("logFilePath", "string"),
    _field("logSeverityFile", "string", one_of=("Trace", "Debug", "Info", "Warning", "Error", "Fatal"), any_case=True),
    _field(
        "logSeverityScreen", "string", one_of=("Trace", "Debug", "Info", "Warning", "Error", "Fatal"), any_case=True
    ),
    _field("logSeveritySys", "string", one_of=("Trace", "Debug", "Info", "Warning", "Error", "Fatal"), any_case=True),
    _field("logDebugFilenameRegex", "string", form="regex"),
    _field("ipipEnabled", "bool"),
    _field("ipipMTU", "int"),
    _field("vxlanEnabled", "bool"),
    _field("vxlanMTU", "int"),
    _field("vxlanMTUV6", "int"),
    _field("vxlanPort", "int"),
    _field("vxlanVNI", "int"),
    _field("allowVXLANPacketsFromWorkloads", "bool"),
    _field("allowIPIPPacketsFromWorkloads", "bool"),
    _field("reportingInterval", "duration"),
    _field("reportingTTL", "duration"),
    _field("endpointReportingEnabled", "bool"),
    _field("endpointReportingDelay", "duration"),
    _field("endpointStatusPathPrefix", "string"),
    _field("iptablesMarkMask", "uint32"),
    _field("disableConntrackInvalidCheck", "bool"),
    _field("healthEnabled", "bool"),
    _field("healthHost", "string"),
    _field("healthPort", "int"),
    _field("healthTimeoutOverrides", "objects"),
    _field("prometheusMetricsEnabled", "bool"),
    _field("prometheusMetricsHost", "string", form="host"),
    _field("prometheusMetricsPort", "int"),
    _field("prometheusGoMetricsEnabled", "bool"),
    _field("prometheusProcessMetricsEnabled", "bool"),
    _field("prometheusWireGuardMetricsEnabled", "bool"),
    _field("prometheusMetricsCAFile", "string"),
    _field("prometheusMetricsCertFile", "string"),
    _field("prometheusMetricsKeyFile", "string"),
    _field(
        "prometheusMetricsClientAuth",
        "string",
        one_of=("RequireAndVerifyClientCert", "RequireAnyClientCert", "VerifyClientCertIfGiven", "NoClientCert"),
    ),
    _field("failsafeInboundHostPorts", "protoports"),
    _field("failsafeOutboundHostPorts", "protoports"),
    _field("kubeNodePortRanges", "ports"),
    _field("policySyncPathPrefix", "string"),
    _field("usageReportingEnabled", "bool"),
    _field("usageReportingInitialDelay", "duration"),
    _field("usageReportingInterval", "duration"),
    _field("natPortRange", "port"),
    _field("natOutgoingAddress", "string", longest=45),
    _field("natOutgoingExclusions", "string", one_of=("IPPoolsOnly", "IPPoolsAndHostIPs")),
    _field("deviceRouteSourceAddress", "string", longest=45),
    _field("deviceRouteSourceAddressIPv6", "string", longest=45),
    _field("deviceRouteProtocol", "int"),
    _field("removeExternalRoutes", "bool"),
    _field("programClusterRoutes", "string", one_of=("Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly")),
    _field("ipForwarding", "string", one_of=("Enabled", "Disabled")),
    _field("externalNodesList", "strings"),
    _field("debugMemoryProfilePath", "string"),
    _field("debugDisableLogDropping", "bool"),
    _field("debugSimulateCalcGraphHangAfter", "duration"),
    _field("debugSimulateDataplaneHangAfter", "duration"),
    _field("debugSimulateDataplaneApplyDelay", "duration"),
    _field("debugHost", "string"),
    _field("debugPort", "int", minimum=0, maximum=65535),
    _field("iptablesNATOutgoingInterfaceFilter", "string", form="interface filter"),
    _field("sidecarAccelerationEnabled", "bool"),
    _field("xdpEnabled", "bool"),
    _field("genericXDPEnabled", "bool"),
    _field("nftablesMode", "string", one_of=("Disabled", "Enabled", "Auto")),
    _field("nftablesFlowTableOffload", "string", one_of=("All", "Disabled")),
    _field("nftablesFlowTableDataIfacePattern", "string", form="regex"),
    _field("nftablesRefreshInterval", "duration"),
    _field("nftablesFilterAllowAction", "string", one_of=("Accept", "Return"), any_case=True),
    _field("nftablesMangleAllowAction", "string", one_of=("Accept", "Return"), any_case=True),
    _field("nftablesFilterDenyAction", "string", one_of=("Drop", "Reject"), any_case=True),
    _field("nftablesMarkMask", "uint32"),
    _field("bpfEnabled", "bool"),
    _field("bpfOverlayHostSourceIP", "string", one_of=("TunnelAddress", "HostAddress")),
    _field("bpfDisableUnprivileged", "bool"),
    _field("bpfJITHardening", "string", one_of=("Auto", "Strict")),
    _field("bpfLogLevel", "string", one_of=("Off", "Info", "Debug"), any_case=True),
    _field("bpfConntrackLogLevel", "string", one_of=("Off", "Debug")),
    _field("bpfConntrackMode", "string", one_of=("Auto", "Userspace", "BPFProgram")),
    _field("bpfConntrackTimeouts", "object"),
    _field("bpfIPFragTimeout", "duration"),
    _field("bpfLogFilters", "map", form="keys = interfaces"),
    _field("bpfCTLBLogFilter", "string"),
    _field("bpfDataIfacePattern", "string", form="regex"),
    _field("bpfL3IfacePattern", "string", form="regex"),
    _field("bpfConnectTimeLoadBalancingEnabled", "bool"),
    _field("bpfConnectTimeLoadBalancing", "string", one_of=("TCP", "Enabled", "Disabled")),
    _field("bpfHostNetworkedNATWithoutCTLB", "string", one_of=("Enabled", "Disabled")),
    _field("bpfExternalServiceMode", "string", one_of=("Tunnel", "DSR"), any_case=True),
    _field("bpfDSROptoutCIDRs", "strings", form="CIDRs"),
    _field("bpfExtToServiceConnmark", "int", minimum=0, maximum=4294967295),
    _field("bpfKubeProxyIptablesCleanupEnabled", "bool"),
    _field("bpfKubeProxyMinSyncPeriod", "duration"),
    _field("bpfKubeProxyHealthzPort", "int", minimum=0, maximum=65535),
    _field("bpfPSNATPorts", "port"),
    _field("bpfMapSizeNATFrontend", "int"),
    _field("bpfMapSizeNATBackend", "int"),
    _field("bpfMapSizeNATAffinity", "int"),
    _field("bpfMapSizeRoute", "int"),
    _field("bpfMapSizeConntrack", "int"),
    _field("bpfMapSizePerCpuConntrack", "int"),
    _field("bpfMapSizeConntrackScaling", "string", one_of=("Disabled", "DoubleIfFull"), any_case=True),
    _field("bpfMapSizeConntrackCleanupQueue", "int", minimum=1),
    _field("bpfMapSizeIPSets", "int"),
    _field("bpfMapSizeIfState", "int"),
    _field("bpfHostConntrackBypass", "bool"),
    _field("bpfIPFragmentReassemblyEnabled", "bool"),
    _field("bpfEnforceRPF", "string", one_of=("Disabled", "Strict", "Loose"), any_case=True),
    _field("bpfPolicyDebugEnabled", "bool"),
    _field("bpfForceTrackPacketsFromIfaces", "strings", form="interface filters"),
    _field("bpfDisableGROForIfaces", "string", form="regex"),
    _field("bpfExcludeCIDRsFromNAT", "strings", form="CIDRs"),
    _field("bpfExportBufferSizeMB", "int"),
    _field("istioAmbientMode", "string", one_of=("Enabled", "Disabled")),
    _field("istioDSCPMark", "dscp"),
    _field("cgroupV2Path", "string"),
    _field("bpfRedirectToPeer", "string", one_of=("Enabled", "Disabled")),
    _field("bpfAttachType", "string", one_of=("TC", "TCX", "Netkit")),
    _field("flowLogsPolicyEvaluationMode", "string", one_of=("None", "Continuous")),
    _field("flowLogsFlushInterval", "duration"),
    _field("flowLogsCollectorDebugTrace", "bool"),
    _field("flowLogsGoldmaneServer", "string"),
    _field("flowLogsLocalReporter", "string", one_of=("Disabled", "Enabled")),
    _field("bpfProfiling", "string", one_of=("Enabled", "Disabled")),
    _field("routeSource", "string", one_of=("WorkloadIPs", "CalicoIPAM"), any_case=True),
    _field("routeTableRanges", "ranges"),
    _field("routeTableRange", "range"),
    _field("routeSyncDisabled", "bool"),
    _field("ipv4NormalRoutePriority", "int", minimum=1, maximum=2147483646),
    _field("ipv4ElevatedRoutePriority", "int", minimum=1, maximum=2147483646),
    _field("ipv6NormalRoutePriority", "int", minimum=1, maximum=2147483646),
    _field("ipv6ElevatedRoutePriority", "int", minimum=1, maximum=2147483646),
    _field("liveMigrationRouteConvergenceTime", "duration"),
    _field("wireguardEnabled", "bool"),
    _field("wireguardEnabledV6", "bool"),
    _field("wireguardThreadingEnabled", "bool"),
    _field("wireguardListeningPort", "int", minimum=1, maximum=65535),
    _field("wireguardListeningPortV6", "int", minimum=1, maximum=65535),
    _field("wireguardRoutingRulePriority", "int", minimum=1, maximum=32765),
    _field("wireguardInterfaceName", "string", form="interface"),
    _field("wireguardInterfaceNameV6", "string", form="interface"),
    _field("wireguardMTU", "int"),
    _field("wireguardMTUV6", "int"),
    _field("wireguardHostEncryptionEnabled", "bool"),
    _field("wireguardKeepAlive", "duration"),
    _field("awsSrcDstCheck", "string", one_of=("DoNothing", "Enable", "Disable")),
    _field("serviceLoopPrevention", "string", one_of=("Drop", "Reject", "Disabled")),
    _field("workloadSourceSpoofing", "string", one_of=("Disabled", "Any")),
    _field("mtuIfacePattern", "string", form="regex"),
    _field("floatingIPs", "string", one_of=("Enabled", "Disabled")),
    _field("localSubnetL2Reachability", "string", one_of=("Disabled", "PodsAndLoadBalancers")),
    _field("localSubnetL2ReachabilityRefreshInterval", "duration"),
    _field("windowsManageFirewallRules", "string", one_of=("Enabled", "Disabled")),
    _field("goGCThreshold", "int", minimum=-1),
    _field("goMemoryLimitMB", "int", minimum=-1),
    _field("goMaxProcs", "int", minimum=-1),
    _field("requireMTUFile", "bool"),
    _field("bpfMaglevMaxEndpointsPerService", "int", minimum=1, maximum=3000),
    _field("bpfMaglevMaxServices", "int", minimum=1, maximum=3000),
)

FIELDS: dict[str, FelixField] = {row.name: row for row in _ROWS}
ORDER: dict[str, int] = {row.name: place for place, row in enumerate(_ROWS)}
RENAMED = {
    "bpfConntrackMode": "BPFConntrackCleanupMode",
    "endpointReportingDelay": "EndpointReportingDelaySecs",
    "externalNodesList": "ExternalNodesCIDRList",
    "ipipEnabled": "IpInIpEnabled",
    "ipipMTU": "IpInIpMtu",
    "iptablesLockProbeInterval": "IptablesLockProbeIntervalMillis",
    "iptablesPostWriteCheckInterval": "IptablesPostWriteCheckIntervalSecs",
    "netlinkTimeout": "NetlinkTimeoutSecs",
    "reportingInterval": "ReportingIntervalSecs",
    "reportingTTL": "ReportingTTLSecs",
    "usageReportingInitialDelay": "UsageReportingInitialDelaySecs",
    "usageReportingInterval": "UsageReportingIntervalSecs",
    "wireguardKeepAlive": "WireguardPersistentKeepAlive",
}
"""Members of a FelixConfiguration whose parameter is called otherwise, not only in other letters."""


def parameter_name(member: str) -> str:
    """What a member of a FelixConfiguration is called in the environment and in a file, but for the letters' case."""
    return RENAMED.get(member, member)
