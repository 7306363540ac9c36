"""A Debian 12 root of this machine's own mirror, made once by debootstrap and kept below `build/`.

`debian_root()` is the folder: nobody writes there. What needs a root of its own lays an overlay on it, as
`tests.lab.systemd` does. Making it takes 80 s, with the packages in `build/lab-packages` 50; whoever asks meanwhile
waits. `python -m tests.lab.rootfs` makes it ahead of time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from libcalico.testing.machine import DIE_WITH_US

BUILD = Path(__file__).resolve().parents[2] / "build"
SUITE = "bookworm"
INCLUDED = (
    "systemd,systemd-sysv,dbus,"
    "iproute2,iputils-ping,procps,kmod,conntrack,"
    "nftables,libnftables1,iptables,ipset,bird2,etcd-server,etcd-client,python3"
)
"""What a host of the lab needs and our packages depend on: it has no network to get it from. debootstrap follows no
dependency on a virtual package."""
MASKED = (
    "bird", "etcd", "dbus-org.freedesktop.login1", "systemd-logind", "console-getty", "getty@tty1", "e2scrub_reap",
)  # fmt: skip
"""Services that would start at boot: the tests start what they need, and a login is not needed."""
ALONE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL", "--")
"""Before a command: what it mounts and starts goes when it does."""


class NoRoot(Exception):
    """The root could not be made; the message has debootstrap's last words."""


def debian_root() -> Path:
    """The root's folder; makes it when there is none of this recipe. Raises `NoRoot`."""
    recipe = hashlib.sha256("\n".join((SUITE, INCLUDED, *MASKED)).encode()).hexdigest()[:12]
    root = BUILD / f"lab-root-{recipe}"
    if root.is_dir():
        return root
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lab-root.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            for former in BUILD.glob("lab-root-*"):
                shutil.rmtree(former)
            _make(root)
    return root


def _make(root: Path) -> None:
    packages, partial, log = BUILD / "lab-packages", BUILD / "lab-root-partial", BUILD / "lab-root.log"
    packages.mkdir(exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    command = [
        *DIE_WITH_US, *ALONE, "debootstrap", "--variant=minbase", f"--include={INCLUDED}", f"--cache-dir={packages}",
        SUITE, str(partial), mirror(),
    ]  # fmt: skip
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        ends = log.read_text(errors="replace")[-1500:]
        raise NoRoot(f"debootstrap {SUITE} ended with status {done.returncode}, {log}:\n{ends}")
    _prepare(partial)
    partial.rename(root)


def mirror() -> str:
    """Where this machine's own apt gets Debian's main packages of the suite from."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = f"{SUITE} main "
    for line in lines:
        if line.startswith(wanted):
            return line.removeprefix(wanted)
    raise NoRoot(f"apt has no source of {SUITE} main: add one below /etc/apt/sources.list.d, then apt-get update")


def _prepare(root: Path) -> None:
    """As a host boots it: no service that nobody asked for, no downloaded package, a machine id of each host's own."""
    for name in MASKED:
        unit = root / f"etc/systemd/system/{name}.service"
        unit.unlink(missing_ok=True)
        unit.symlink_to("/dev/null")
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    for name in ("hostname", "resolv.conf"):
        (root / "etc" / name).unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("")


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("debootstrap needs root")
    try:
        print(debian_root())
    except NoRoot as error:
        sys.exit(str(error))
