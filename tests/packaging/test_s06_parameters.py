"""S6: validation of config.yaml, and what the parameters turn into (spec/scenarios.md, spec/dcos.md 5, 6)."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calico_dcos.main import main
from calico_dcos.parameters import DEFAULTS, check
from calico_dcos.rendering import mesos_environment, render
from tests.packaging.dcos_package import ROOT

SPEC = (ROOT / "docs/spec/dcos.md").read_text()
SECTION_6 = SPEC[SPEC.index("## 6. What the parameters turn into") : SPEC.index("## 7. etcd in DC/OS")]
BETWEEN_PORTS = "Must be between 1025 and 65535 inclusive"
BETWEEN_VNIS = "Must be between 1 and 16777215 inclusive"
SMALL = "Must be above or equal to 552"
ETCD = "http://master.dcos.thisdcos.directory:2379"


def not_a_subnet(value: str) -> str:
    return f"Incorrect value for `calico_network_cidr`: `{value}`. Only IPv4 subnets are allowed"


REFUSED = [
    ("calico_enabled", "yes", "Must be one of 'true', 'false'. Got 'yes'."),
    ("calico_enabled", "True", "Must be one of 'true', 'false'. Got 'True'."),
    ("calico_enabled", "", "Must be one of 'true', 'false'. Got ''."),
    ("calico_vxlan_enabled", "no", "Must be one of 'true', 'false'. Got 'no'."),
    ("calico_network_cidr", "", not_a_subnet("")),
    ("calico_network_cidr", "172.29.0.1/16", not_a_subnet("172.29.0.1/16")),
    ("calico_network_cidr", "fd00::/64", not_a_subnet("fd00::/64")),
    ("calico_network_cidr", "172.29.0.0/33", not_a_subnet("172.29.0.0/33")),
    ("calico_network_cidr", "172.29.0.0/16\n", not_a_subnet("172.29.0.0/16\\n")),
    ("calico_network_cidr", "9.5.0.0/16", "overlay subnet 9.0.0.0/8 overlaps calico network 9.5.0.0/16"),
    ("calico_vxlan_port", "1024", BETWEEN_PORTS),
    ("calico_vxlan_port", "65536", BETWEEN_PORTS),
    ("calico_vxlan_port", "abc", "Must be an integer but got a <class 'str'>: abc"),
    ("calico_vxlan_port", "-1", "Must be an integer but got a <class 'str'>: -1"),
    ("calico_vxlan_port", "64_000", "Must be an integer but got a <class 'str'>: 64_000"),
    ("calico_vxlan_port", "9" * 5000, f"Must be an integer but got a <class 'str'>: {'9' * 80}..."),
    ("calico_vxlan_vni", "0", BETWEEN_VNIS),
    ("calico_vxlan_vni", "16777216", BETWEEN_VNIS),
    ("calico_vxlan_vni", "1024", f"{BETWEEN_VNIS}, and not 1024: that is the VNI of DC/OS's overlay network"),
    ("calico_vxlan_mtu", "551", SMALL),
    ("calico_ipinip_mtu", "0", SMALL),
    ("calico_veth_mtu", "", "Must be an integer but got a <class 'str'>: "),
    ("calico_veth_mtu", "1500\nFELIX_X=1", "Must be an integer but got a <class 'str'>: 1500\\nFELIX_X=1"),
]
ACCEPTED = [
    ("calico_enabled", "false"), ("calico_network_cidr", "10.0.0.0/8"), ("calico_network_cidr", "172.29.4.4"),
    ("calico_vxlan_port", "1025"), ("calico_vxlan_port", "65535"), ("calico_vxlan_vni", "1"),
    ("calico_vxlan_vni", "16777215"), ("calico_vxlan_vni", "1025"), ("calico_veth_mtu", "552"),
    ("calico_vxlan_mtu", "9000"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_refused(name: str, value: str, message: str) -> None:
    checked = check({name: value})
    assert [(one.parameter, one.message) for one in checked.errors] == [(name, message)]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_accepted(name: str, value: str) -> None:
    assert check({name: value}).errors == []


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_a_value_that_is_no_text_is_named(name: str) -> None:
    for value in (None, ["1500"], {"a": "b"}, 1500):
        (error,) = check({name: value}).errors
        assert error.parameter == name and error.message.startswith("Must be text but got a ")


def test_the_overlay_counts_only_while_it_is_on() -> None:
    assert check({"calico_network_cidr": "9.5.0.0/16", "dcos_overlay_enable": "false"}).errors == []
    assert check({"calico_network_cidr": "9.5.0.0/16", "calico_enabled": "false"}).errors == []
    own = json.dumps({"overlays": [{"name": "o", "subnet": "172.28.0.0/14"}, {"name": "six", "subnet6": "fd01::/64"}]})
    (error,) = check({"dcos_overlay_network": own}).errors
    assert error.message == "overlay subnet 172.28.0.0/14 overlaps calico network 172.29.0.0/16"
    assert check({"calico_network_cidr": "9.5.0.0/16", "dcos_overlay_network": own}).errors == []


@pytest.mark.parametrize("value", ["{", "[]", '{"overlays": 5}', '{"overlays": ["a"]}', "[" * 100_000])
def test_an_overlay_network_that_cannot_be_read_is_named(value: str) -> None:
    (error,) = check({"dcos_overlay_network": value}).errors
    assert error.parameter == "dcos_overlay_network" and "overlays" in error.message


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"calico_network_cidr": "172.16.0.0/12"}, "Mesos"),
        ({"calico_network_cidr": "172.17.4.0/22"}, "Docker"),
        ({"calico_network_cidr": "44.128.0.0/16"}, "vtep_subnet"),
        ({"calico_network_cidr": "172.29.0.0/28"}, "a /26"),
        ({"calico_enable": "true"}, "calico_enabled is meant?"),
        ({"calico_zzz": "1"}, "known are calico_enabled,"),
    ],
)
def test_warned_of(config: dict[str, str], word: str) -> None:
    checked = check(config)
    assert checked.errors == [] and any(word in one.message for one in checked.warnings)


def test_the_defaults_are_good_and_the_specifications() -> None:
    assert check({}) == (DEFAULTS, [], [])
    rows = re.findall(r"(?m)^\| `(calico_\w+)` \| `'([^']*)'` \|", SPEC)
    assert dict(rows) == DEFAULTS


def table_of_section_6(mode: str, values: dict[str, str]) -> str:
    """calico-node.env as the specification's own table says it, for `vxlan` or `bird`."""
    lines = []
    for name, *columns in re.findall(
        r"(?m)^\| `([A-Z][A-Z0-9_]+)` \| (\S+) \| (\S+) \|$", SECTION_6.replace("| same |", "| (same) |")
    ):
        text = columns[0] if mode == "vxlan" or columns[1] == "(same)" else columns[1]
        if text != "–":
            text = re.sub(r"<(calico_\w+)>", lambda found: values[found[1]], text.strip("`"))
            lines.append(f"{name}={text}\n")
    return "".join(lines)


def combinations() -> Iterator[dict[str, str]]:
    """Every parameter with its default and with another value: all of them together."""
    others = {
        "calico_enabled": "false", "calico_network_cidr": "192.168.128.0/17", "calico_vxlan_enabled": "false",
        "calico_vxlan_port": "4789", "calico_vxlan_vni": "77", "calico_vxlan_mtu": "8950", "calico_ipinip_mtu": "8980",
        "calico_veth_mtu": "552",
    }  # fmt: skip
    for chosen in itertools.product(*((DEFAULTS[name], others[name]) for name in DEFAULTS)):
        yield dict(zip(DEFAULTS, chosen, strict=True))


def test_rendering_of_all_combinations() -> None:
    seen = 0
    for values in combinations():
        checked = check(values)
        files = render(checked.values)
        assert checked.errors == [] and checked.values == values
        seen += 1
        if values["calico_enabled"] == "false":
            assert files == {}
            continue
        mode = "vxlan" if values["calico_vxlan_enabled"] == "true" else "bird"
        folder = "/opt/mesosphere/etc/calico"
        assert files.pop(f"{folder}/calico-node.env") == table_of_section_6(mode, values)
        assert files.pop(f"{folder}/calico_enabled") == ""
        assert files.pop(f"{folder}/bird_enabled", None) == (None if mode == "vxlan" else "")
        assert files.pop(f"{folder}/calico-node-datastore.env") == f"ETCD_ENDPOINTS={ETCD}\n"
        assert yaml.safe_load(files.pop(f"{folder}/calicoctl.cfg")) == {
            "apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig", "metadata": None,
            "spec": {"datastoreType": "etcdv3", "etcdEndpoints": ETCD},
        }  # fmt: skip
        assert json.loads(files.pop("/opt/mesosphere/etc/dcos/network/cni/calico.conf")) == {
            "name": "calico", "type": "mesos-cni-port-mapper", "excludeDevices": ["cali+"], "chain": "M-CALICO",
            "delegate": {
                "cniVersion": "0.1.0", "type": "calico", "mtu": int(values["calico_veth_mtu"]), "etcd_endpoints": ETCD,
                "ipam": {"type": "calico-ipam"},
            },
        }  # fmt: skip
        assert files == {}
    assert seen == 2 ** len(DEFAULTS)


VXLAN_ENV = """\
NO_DEFAULT_POOLS=false
CALICO_IPV4POOL_CIDR=172.29.0.0/16
CALICO_IPV4POOL_NAT_OUTGOING=true
FELIX_IGNORELOOSERPF=true
FELIX_LOGFILEPATH=none
FELIX_PROMETHEUSMETRICSENABLED=true
FELIX_PROMETHEUSMETRICSPORT=62091
CALICO_IPV4POOL_IPIP=never
CALICO_IPV4POOL_VXLAN=always
CALICO_NETWORKING_BACKEND=vxlan
FELIX_VXLANMTU=1450
FELIX_VXLANPORT=64000
FELIX_VXLANVNI=4096
"""


def test_the_defaults_render_to_these_bytes() -> None:
    assert render(check({}).values)["/opt/mesosphere/etc/calico/calico-node.env"] == VXLAN_ENV
    assert table_of_section_6("vxlan", DEFAULTS) == VXLAN_ENV


def test_mesos_finds_our_plugins_last_and_only_while_they_are_on() -> None:
    folders = mesos_environment(DEFAULTS)["MESOS_NETWORK_CNI_PLUGINS_DIR"].split(":")
    assert folders[-1] == "/opt/mesosphere/active/calico/cni" and len(folders) == 4
    off = mesos_environment({**DEFAULTS, "calico_enabled": "false"})["MESOS_NETWORK_CNI_PLUGINS_DIR"]
    assert off.split(":") == folders[:-1]


@given(name=st.sampled_from(sorted(DEFAULTS)), value=st.text(max_size=40))
def test_whatever_is_given_one_line_comes_out_or_a_good_file(name: str, value: str) -> None:
    checked = check({name: value})
    for one in (*checked.errors, *checked.warnings):
        assert "\n" not in f"{one.parameter}{one.message}" and len(one.message) < 400
    if not checked.errors:
        for path, text in render(checked.values).items():
            if path.endswith(".env"):
                assert all(re.fullmatch(r"[A-Z0-9_]+=[a-z0-9./:]*", line) for line in text.splitlines())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("cluster_name: c\ncalico_vxlan_enabled: false\ncalico_veth_mtu: 1400\ncalico_enable: yes\n")
    assert main(["validate-config", str(config)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "warning: calico_enable: 'yes': No such parameter, it has no effect: calico_enabled is meant?"
    ]
    assert main(["render-config", str(config), str(tmp_path / "root")]) == 0
    assert (tmp_path / "root/opt/mesosphere/etc/calico/bird_enabled").read_text() == ""
    config.write_text("calico_vxlan_vni: 1024\ncalico_enabled: on\n")
    assert main(["render-config", str(config), str(tmp_path / "none")]) == 1
    assert "calico_vxlan_vni: '1024': Must be" in capsys.readouterr().err and not (tmp_path / "none").exists()
    for text in ("- a\n", "a: [", "\x00", "é".encode("latin1").decode("latin1") * 3 + ": ["):
        config.write_text(text)
        assert main(["validate-config", str(config)]) == 2
    assert main(["validate-config", str(tmp_path / "absent")]) == 2
