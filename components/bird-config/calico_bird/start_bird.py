"""`dcos-calico-bird`: becomes BIRD as the unit of DC/OS runs it (spec/dcos.md 2.1).

The process is BIRD's own, with `bird` as its first word, by which `calicoctl node status` knows it. Nothing but the
standard library is imported: BIRD is back sooner.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping

FILE, SOCKET, OTHER_SOCKET = "/etc/calico/confd/config/bird.cfg", "/var/run/calico/bird.ctl", "bird6.ctl"
PROGRAM_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/sbin"
FALLBACK = "/usr/sbin/bird"
OURS_ALONE = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHOME")
"""Variables of our own runtime, and of DC/OS's: BIRD is the host's program, with the host's libraries."""


def main() -> int:
    """Becomes BIRD; returns the exit status when that cannot be. The supervisor tries again."""
    environment = dict(os.environ)
    file, socket = environment.get("CALICO_BIRD_FILE") or FILE, environment.get("CALICO_BIRD_SOCKET") or SOCKET
    program = find_bird(environment)
    try:
        for folder in (os.path.dirname(file), os.path.dirname(socket)):
            os.makedirs(folder or ".", exist_ok=True)
        _link(socket)
        if not os.path.exists(file):
            return _say(f"{file} is not there yet: dcos-calico-confd writes it when it has read the datastore")
        os.execve(program, arguments(file, socket), host_environment(environment))
    except OSError as error:
        return _say(f"cannot start BIRD ({program}): {error}; install bird2, or set CALICO_BIRD_PROGRAM")


def find_bird(environment: Mapping[str, str]) -> str:
    """BIRD's program: as set, or where it is installed; Debian's place if it is nowhere."""
    path = f"{environment.get('PATH', '')}:{PROGRAM_PATH}"
    return environment.get("CALICO_BIRD_PROGRAM") or shutil.which("bird", path=path) or FALLBACK


def arguments(file: str, socket: str) -> list[str]:
    """BIRD's: it recovers from a restart gracefully, stays in the foreground, and logs to stderr."""
    return ["bird", "-R", "-s", socket, "-d", "-c", file]


def host_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what is meant for us alone."""
    return {name: value for name, value in environment.items() if name not in OURS_ALONE}


def _link(socket: str) -> None:
    """Programs that ask for IPv6 find the one daemon, too. What is there already stays."""
    try:
        os.symlink(os.path.basename(socket), os.path.join(os.path.dirname(socket), OTHER_SOCKET))
    except FileExistsError:
        pass


def _say(reason: str) -> int:
    sys.stderr.write(f"dcos-calico-bird: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
