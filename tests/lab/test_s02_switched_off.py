"""S2: with `calico_enabled: "false"` the package is there and does nothing, on hosts of every role."""

from __future__ import annotations

from pathlib import Path

from tests.lab import dcos
from tests.lab.booted import LIBNETWORK, ROLES, Booted
from tests.lab.dcos import Options


def test_s02_switched_off(package: Path) -> None:
    with Booted(package, ("m1", "a1", "p1"), Options(enabled=False)) as cluster:
        cluster.boot()
        for name in cluster.up:
            host = cluster.host(name)
            units = [unit for unit in dcos.UNITS if unit != LIBNETWORK or ROLES[name] != "master"]
            host.systemctl("start", "dcos.target", *units)
            for unit in units:
                state = cluster.state(name, unit)
                assert (state["ActiveState"], state["ConditionResult"]) == ("inactive", "no"), f"{name}: {unit}"
                assert dcos.health(host, unit) == ""
            assert host.show(LIBNETWORK, "LoadState")["LoadState"] == ("loaded" if LIBNETWORK in units else "not-found")
            assert "calico" not in host.run("ps -eo args").stdout.replace("calico--", "")
            assert "calico" not in host.run("ip -br link; nft list tables").stdout
            host.run("! ls -d /etc/docker /run/docker /etc/calico /var/lib/calico /run/calico 2>/dev/null")
