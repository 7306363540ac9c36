"""A host booted by real systemd: `systemd-nspawn --boot` on an overlay of the cached Debian root (`tests.lab.rootfs`).

    with SystemdHost("a1") as host:
        host.boot()
        print(host.run("systemctl list-units --failed").stdout)

Everything is made inside the namespaces of one process, as it is for any `Host`: overlay, network and all processes go
with it. What the kernel keeps all the same, an empty control group, is removed by a sweeper that outlives the run for a
moment.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from libcalico.testing.machine import need
from tests.lab.host import CommandFailed, Host
from tests.lab.rootfs import NoRoot, debian_root

CLONE = Path(__file__).resolve().parents[2]
BOOT_LIMIT_S = 60.0
SETUP = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/lab/up /run/lab/work /run/lab/root
mount -t overlay overlay -o lowerdir={root},upperdir=/run/lab/up,workdir=/run/lab/work /run/lab/root
ip link set lo up
echo ready
exec sleep infinity
"""
"""Of the namespaces that systemd-nspawn runs in: cgroup2 alone, as Debian 12 has it, whatever this machine mounts."""
BOOT = """
mkdir {group} && echo $$ > {group}/cgroup.procs
exec env SYSTEMD_NSPAWN_API_VFS_WRITABLE=network systemd-nspawn --quiet --boot --register=no --keep-unit \
  --directory=/run/lab/root --machine={name} --network-namespace-path=/proc/1/ns/net --capability=all \
  --console=pipe --link-journal=no --resolv-conf=off --timezone=off {binds}
"""
"""Of what is the machine's and not the host's (/sys, /proc/sys but its net), a host may change nothing."""
SWEEPER = """
cat > /dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for _ in $(seq 100); do
  [ -d /sys/fs/cgroup/$1 ] || exit 0
  find /sys/fs/cgroup/$1 -depth -type d -exec rmdir {} + 2>/dev/null
  sleep 0.05
done
"""
"""Waits for the end of its input, which is that of the host or of the run, then removes the host's control group."""


def need_systemd() -> None:
    """Skip (or, in CI, fail) where no host can be booted."""
    need(os.geteuid() == 0, "root", "run as root")
    for program, package in (("systemd-nspawn", "systemd-container"), ("debootstrap", "debootstrap")):
        found = subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True, check=False)
        need(found.returncode == 0, program, f"apt-get install {package}")
    try:
        debian_root()
    except NoRoot as error:
        need(False, "a Debian root", str(error))


def bound() -> list[str]:
    """Folders of this machine that every host sees, read-only: the clone, and the Python that its .venv is of."""
    base = Path(sys.base_prefix)
    return [str(CLONE), *(() if base.is_relative_to("/usr") else (str(base),))]


class SystemdHost(Host):
    """A host whose init is systemd once it is booted; cables are plugged in before or after."""

    def __init__(
        self,
        name: str,
        say: Callable[[str], None] | None = None,
        inherits: Collection[int] = (),
        binds: Mapping[str, str] | None = None,
    ) -> None:
        """Make its namespaces. The kernel ends the host with the thread that makes it. `binds`: more folders of this
        machine, and where the host sees them."""
        self._binds = dict(binds or {})
        self._group = f"calico-lab-{os.getpid()}-{name}-{uuid.uuid4().hex[:6]}"
        self._sweeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", SWEEPER, "sweeper", self._group],
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        super().__init__(name, say, inherits=inherits, setup=SETUP.format(root=debian_root()))
        self._holder = self.pid

    def boot(self) -> float:
        """Switch it on, and wait until systemd has started every unit of its boot; returns how long that took, in
        seconds. Raises `CommandFailed` with the console's end."""
        started = time.monotonic()
        binds = " ".join(f"--bind-ro={shlex.quote(folder)}" for folder in bound())
        binds += "".join(f" --bind={shlex.quote(f'{folder}:{place}')}" for folder, place in self._binds.items())
        script = BOOT.format(group=f"/sys/fs/cgroup/{self._group}", name=self.name, binds=binds)
        console = f"/proc/{self._holder}/root/run/lab/console"
        with Path(console).open("wb") as log:
            process = self.start(["sh", "-c", script], log=log)
        while not self._is_up():
            if process.poll() is not None or time.monotonic() - started > BOOT_LIMIT_S:
                raise CommandFailed(f"host {self.name} does not boot:\n{Path(console).read_text()[-2000:]}")
            time.sleep(0.02)
        return time.monotonic() - started

    @property
    def root(self) -> Path:
        """Its root folder, as this machine sees it; absolute links in it lead out of it."""
        return Path(f"/proc/{self._holder}/root/run/lab/root")

    @property
    def is_booted(self) -> bool:
        """Is it switched on?"""
        return self.pid != self._holder

    def _is_up(self) -> bool:
        if not self.is_booted:
            group = Path(f"/proc/{self._holder}/root/sys/fs/cgroup/{self._group}/payload/init.scope/cgroup.procs")
            members = group.read_text().split() if group.exists() else []
            if not members:
                return False
            self.pid = int(members[0])
        state = self.run(["systemctl", "is-system-running", "--wait"], check=False).stdout.strip()
        return state in ("running", "degraded")

    def systemctl(self, *words: str, check: bool = True) -> str:
        """systemctl's answer."""
        return self.run(["systemctl", *words], check=check).stdout

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.systemctl("show", unit, *(f"--property={name}" for name in names)).splitlines()
        return {key: value for key, _, value in (line.partition("=") for line in lines)}

    def journal(self, unit: str) -> str:
        """What a unit has logged."""
        return self.run(["journalctl", "--no-pager", "--output=cat", f"--unit={unit}"]).stdout

    def close(self) -> None:
        """Take the host away with all that runs on it, and its control group."""
        self.pid = self._holder
        super().close()
        self._sweeper.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
