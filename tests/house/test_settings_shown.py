"""Some test shows the effect of every parameter of the agent."""

from __future__ import annotations

from pathlib import Path

from calico_felix.parameters import PARAMETERS

ROOT = Path(__file__).parents[2]
LAB = "tests/lab/test_settings.py"
HERE = "components/felix/tests/test_settings_effects.py"
MAIN = "components/felix/tests/test_felix_main.py"
ETCD = "libcalico/tests/test_etcd_settings.py"
SERVING = "components/felix/tests/test_felix_serving.py"
TUNNELS = "components/felix/tests/test_encapsulations.py"
ELSEWHERE = {
    "DatastoreType": (HERE, "test_another_kind_of_datastore_is_refused"),
    "FelixHostname": (MAIN, "FelixHostname"),
    "EtcdEndpoints": (MAIN, "EtcdEndpoints"),
    "EtcdAddr": (MAIN, "EtcdAddr"),
    "EtcdScheme": (MAIN, "EtcdScheme"),
    "EtcdCaFile": (MAIN, "EtcdCaFile"),
    "EtcdKeyFile": (ETCD, "EtcdKeyFile"),
    "EtcdCertFile": (HERE, "test_a_certificate_without_its_key_is_refused"),
    "NodeSocket": ("tests/scale/bench_cni.py", "FELIX_NODESOCKET"),
    "StateDirectory": ("tests/scale/bench_cni.py", "FELIX_STATEDIRECTORY"),
    "MTUFile": ("components/felix/tests/test_mtu.py", "MtuFile"),
    "MTUIfacePattern": ("components/felix/tests/test_mtu.py", "HOST_INTERFACES"),
    "LogSeverityScreen": (LAB, "logSeverityScreen"),
    "VXLANEnabled": (TUNNELS, "vxlan_enabled"),
    "IpInIpEnabled": (TUNNELS, "ipip_enabled"),
    "IpInIpMtu": ("components/felix/tests/test_dataplane_ipip.py", "ipip_mtu"),
    "VXLANMTUV6": ("components/felix/tests/test_dataplane_vxlan.py", "vxlan_mtu_v6"),
    "ProgramClusterRoutes": (HERE, "ProgramClusterRoutes"),
    "IPv6Support": (LAB, "ipv6Support"),
    "IPForwarding": (LAB, "ipForwarding"),
    "VXLANVNI": (LAB, "vxlanVNI"),
    "VXLANMTU": (LAB, "vxlanMTU"),
    "DeviceRouteProtocol": (LAB, "deviceRouteProtocol"),
    "ReportingIntervalSecs": (LAB, "reportingInterval"),
    "ReportingTTLSecs": (LAB, "reportingTTL"),
    "EndpointReportingEnabled": (LAB, "endpointReportingEnabled"),
    **{f"{page}{what}": (SERVING, f"{{prefix}}{what}") for page in ("PrometheusMetrics", "Health")
       for what in ("Enabled", "Host", "Port")},
}  # fmt: skip
"""The file of the test that shows the effect, and a word that stands there."""


def test_the_effect_of_every_parameter_is_shown() -> None:
    """By the test that is named here, or as one of the rules that `HERE` compares."""
    in_rules = {row.name for row in PARAMETERS} - ELSEWHERE.keys()
    shown = {**ELSEWHERE, **{name: (HERE, f'    "{name}": "') for name in in_rules}}
    assert len(shown) == len(PARAMETERS)
    for name, (file, word) in shown.items():
        assert word.lower() in (ROOT / file).read_text().lower(), f"{name}: {word} in {file}"
