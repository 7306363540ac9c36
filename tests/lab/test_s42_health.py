"""S42: what DC/OS's diagnostics say of our units; of hosts that are switched off in S2, before etcd in S7."""

from __future__ import annotations

from tests.lab import dcos
from tests.lab.booted import FELIX, LIBNETWORK, Booted
from tests.lab.dcos import ROOT

UNITS = [unit for unit in dcos.UNITS if unit != LIBNETWORK]
"""These hosts have no Docker, and its plug-in does not start there."""


def test_s42_every_unit_is_healthy(units: Booted) -> None:
    for name in units.up:
        assert {unit: dcos.health(units.host(name), unit) for unit in UNITS} == dict.fromkeys(UNITS, "")


def test_s42_a_crash_loop_is_unhealthy(units: Booted) -> None:
    host, file = units.host("p1"), f"{ROOT}/etc/calico/calico-node-datastore.env"
    host.run(f"mv {file} {file}.away")
    host.systemctl("restart", FELIX, check=False)
    units.wait("the unit to be unhealthy", lambda: dcos.health(host, FELIX) != "")
    host.run(f"mv {file}.away {file}")
    units.wait_ready("p1")
    units.wait("the unit to be healthy", lambda: dcos.health(host, FELIX) == "")
