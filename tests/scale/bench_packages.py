"""The packages' sizes; and on a host that real systemd boots, with the packages, one container and one policy: what
each service takes of memory, and how long it is from the start of the agent's unit to ready (needs root)."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from tests.lab.systemd import CLONE
from tests.packaging.conftest import build
from tests.packaging.deb_host import NOW, POLICY, DebHost, wait
from tests.scale.report import report

UNITS = ("calico-felix", "calico-confd", "calico-bird")
STARTS = 7
MIB = 1024.0
EXEC, ACTIVE = "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"
"""Of systemd, in microseconds: when the main process was started, and when the unit became active."""


def main() -> None:
    """All of it."""
    if os.geteuid() or not shutil.which("systemd-nspawn"):
        print("bench_packages: needs root and systemd-container")
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=CLONE / "build"))
    try:
        build("calico_debian", "--out", str(folder), "--version", NOW)
        for package in sorted(folder.glob("*.deb")):
            report(f"size of {package.name.partition('_')[0]}", "MiB", [package.stat().st_size / MIB / MIB])
        with DebHost("bench") as host:
            report("boot of a host of the lab, without Calico", "s", [host.boot()])
            host.start_etcd()
            host.install(folder)
            host.configure()
            _measure(host)
    finally:
        shutil.rmtree(folder)


def _measure(host: DebHost) -> None:
    host.start_units(*UNITS)
    wait(lambda: not host.run("birdcl -s /run/calico/bird.ctl show status", check=False).returncode, "BIRD is up")
    host.calicoctl("apply", "-f", "-", stdin=POLICY)
    host.container("web", "closed")
    for unit in UNITS:
        report(f"RSS of {unit}", "MiB", [_rss_mib(host, unit)], PSS_MiB=round(_pss_mib(host, unit), 1))
    starts, readied, busy = [], [], []
    for _ in range(STARTS):
        host.systemctl("stop", "calico-felix")
        before = time.monotonic()
        host.systemctl("start", "calico-felix")
        starts.append(time.monotonic() - before)
        shown = host.show("calico-felix", EXEC, ACTIVE, "CPUUsageNSec")
        readied.append((int(shown[ACTIVE]) - int(shown[EXEC])) / 1e6)
        busy.append(int(shown["CPUUsageNSec"]) / 1e9)
    report("start of calico-felix to ready, with its start-up", "s", starts, limit=3)
    report("of that, the agent itself", "s", readied)
    report("CPU time of such a start", "s", busy)


def _rss_mib(host: DebHost, unit: str) -> float:
    status = host.read(f"/proc/{host.main_pid(unit)}/status")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / MIB


def _pss_mib(host: DebHost, unit: str) -> float:
    lines = host.read(f"/proc/{host.main_pid(unit)}/smaps_rollup").splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / MIB


if __name__ == "__main__":
    main()
