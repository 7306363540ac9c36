"""Upstream's parameters that have no effect here.

Every name of upstream's must be accepted; one that is set without effect is reported, unless its value asks for what
is done anyway (spec/felix-config.md 3, 4).
"""

from __future__ import annotations

from calico_felix.parameters import PARAMETERS
from libcalico.config import Foreign
from libcalico.model.felix_fields import FIELDS, RENAMED, parameter_name

SELECTOR = "nodeSelector"

_ON_HOST_ONLY = (
    "TyphaAddr", "TyphaCAFile", "TyphaCertFile", "TyphaCN", "TyphaK8sNamespace", "TyphaK8sServiceName", "TyphaKeyFile",
    "TyphaReadTimeout", "TyphaURISAN", "TyphaWriteTimeout",
    "DebugBPFCgroupV2", "DebugCPUProfilePath", "DebugPanicAfter", "DebugSimulateDataRace",
    "IPv4VXLANTunnelAddr", "IPv6VXLANTunnelAddr", "VXLANTunnelMACAddr", "VXLANTunnelMACAddrV6", "IpInIpTunnelAddr",
    "ClusterGUID", "ClusterType", "CalicoVersion", "Variant",
)  # fmt: skip
_FORMER = ("DebugBPFMapRepinEnabled", "IgnoreLooseRPF", "IptablesLockFilePath", "IptablesLockTimeoutSecs")
"""Parameters of older releases, without effect in today's upstream as well; DC/OS sets one of them."""

_CAPITALS = {
    "aws": "AWS", "bpf": "BPF", "ipv4": "IPv4", "ipv6": "IPv6", "mtu": "MTU", "nat": "NAT", "vxlan": "VXLAN",
    "xdp": "XDP",
    "nftablesFlowTable": "NFTablesFlowTable", "nftablesMode": "NFTablesMode",
}  # fmt: skip
_OFF = ("false", "disabled", "none", "0")
_ALREADY = {
    **dict.fromkeys(
        ("bpfEnabled", "debugDisableLogDropping", "debugSimulateCalcGraphHangAfter", "debugSimulateDataplaneApplyDelay",
         "debugSimulateDataplaneHangAfter", "endpointStatusPathPrefix", "floatingIPs", "flowLogsCollectorDebugTrace",
         "flowLogsLocalReporter", "flowLogsPolicyEvaluationMode", "genericXDPEnabled",
         "istioAmbientMode", "localSubnetL2Reachability", "logFilePath", "logSeverityFile", "logSeveritySys",
         "nftablesFlowTableOffload", "policySyncPathPrefix", "prometheusGoMetricsEnabled",
         "prometheusWireGuardMetricsEnabled", "requireMTUFile", "routeSyncDisabled", "serviceLoopPrevention",
         "sidecarAccelerationEnabled", "usageReportingEnabled", "windowsManageFirewallRules", "wireguardEnabled",
         "wireguardEnabledV6", "wireguardHostEncryptionEnabled", "wireguardThreadingEnabled", "workloadSourceSpoofing",
         "xdpEnabled", "DebugPanicAfter", "DebugSimulateDataRace"),
        _OFF,
    ),
    "prometheusProcessMetricsEnabled": ("true",),
    "removeExternalRoutes": ("true",),
    "useInternalDataplaneDriver": ("true",),
    **dict.fromkeys(("nftablesFilterAllowAction", "nftablesMangleAllowAction"), ("accept",)),
    **dict.fromkeys(_FORMER, ("*",)),
    "awsSrcDstCheck": ("donothing",),
    "bpfConnectTimeLoadBalancing": ("tcp",),
    "bpfHostNetworkedNATWithoutCTLB": ("enabled",),
    "natOutgoingExclusions": ("ippoolsonly",),
    "nftablesMode": ("auto", "enabled"),
    "prometheusMetricsClientAuth": ("noclientcert",),
    "routeSource": ("calicoipam",),
    "Variant": ("calico",),
}  # fmt: skip
"""What is done anyway, by parameter: a value of these asks for nothing more. Two say something about eBPF only and are
stored unasked, by upstream's clients and by ours."""


def datastore_names(values: dict[str, str]) -> dict[str, str]:
    """Members of a FelixConfiguration under their parameter names."""
    return {parameter_name(member): value for member, value in values.items()}


def _foreign() -> tuple[Foreign, ...]:
    known = {row.name.lower() for row in PARAMETERS}
    names = [name for name in (*FIELDS, *_ON_HOST_ONLY, *_FORMER) if name != SELECTOR]
    return tuple(
        Foreign(_spelled(name), frozenset(_ALREADY.get(name, ())))
        for name in names
        if parameter_name(name).lower() not in known
    )


def _spelled(name: str) -> str:
    """Upstream's spelling of a parameter, from its member's name."""
    if name in RENAMED:
        return RENAMED[name]
    prefix = next((one for one in _CAPITALS if name.startswith(one)), "")
    return _CAPITALS.get(prefix, "") + name[len(prefix) :] if prefix else name[:1].upper() + name[1:]


FOREIGN = _foreign()
