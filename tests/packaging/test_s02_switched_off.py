"""S2 without booting: with Calico off no condition of a unit holds (spec/scenarios.md, spec/dcos.md 6)."""

from __future__ import annotations

import re

import pytest

from calico_dcos.parameters import check
from calico_dcos.rendering import render
from tests.packaging.dcos_package import ROOT

UNITS = sorted((ROOT / "packaging/dcos/tree").glob("dcos.target.wants*/*.service"))
CONDITION = re.compile(r"(?m)^ConditionPathExists=(\S+)$")


def started(**parameters: str) -> set[str]:
    """Units all of whose conditions hold with what these parameters render."""
    files = render(check(parameters).values)
    return {
        unit.name.removeprefix("dcos-calico-").removesuffix(".service")
        for unit in UNITS
        if all(path in files for path in CONDITION.findall(unit.read_text()))
    }


@pytest.mark.parametrize("vxlan", ["true", "false"])
def test_switched_off_nothing_starts(vxlan: str) -> None:
    assert len(UNITS) == 5
    assert started(calico_enabled="false", calico_vxlan_enabled=vxlan) == set()


def test_switched_on_bgp_starts_in_ipip_mode_only() -> None:
    assert started(calico_vxlan_enabled="true") == {"felix", "libnetwork-plugin"}
    assert started(calico_vxlan_enabled="false") == {"felix", "libnetwork-plugin", "bird", "confd"}
