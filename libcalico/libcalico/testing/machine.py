"""What tests use of the machine: programs and rights that may be missing, names, ports, processes that end with it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import uuid
from pathlib import Path

import pytest

NAMESPACES = "/run/netns"
OWNED = re.compile(r"t-[a-z]+-([0-9]+)-.*")
EPHEMERAL = max(20_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""Before a command: it ends with the process that starts it, however that ends."""


def need(condition: bool, what: str, how: str) -> None:
    """Skip (or, in CI, fail) with a sentence that says how to get it."""
    if condition:
        return
    text = f"needs {what}: {how}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def namespace_name(area: str) -> str:
    """A name for a network namespace that says which run it belongs to."""
    return f"t-{area}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def remove_dead_namespaces() -> None:
    """Remove the network namespaces of test runs that were killed."""
    names = os.listdir(NAMESPACES) if os.geteuid() == 0 and os.path.isdir(NAMESPACES) else []
    for name in names:
        owner = OWNED.fullmatch(name)
        if owner is not None and not os.path.exists(f"/proc/{owner[1]}"):
            subprocess.run(["ip", "netns", "del", name], check=False)


SWEEPER = """
cat > /dev/null
for path in /run/netns/t-*-$1-*; do
  [ -e "$path" ] && ip netns del "${path##*/}"
done
"""
"""Waits for the end of its input, which is the end of the test run, however that ends."""


def sweep_at_the_end() -> subprocess.Popen[bytes]:
    """A process that outlives this one for a moment, and removes the network namespaces that it leaves."""
    command = ["sh", "-c", SWEEPER, "sweeper", str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def free_port() -> int:
    """A TCP port that is free now, and that the kernel does not give to whoever asks for any."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.SystemRandom().randrange(10_000, EPHEMERAL)
            probe.bind(("127.0.0.1", port))
            return port
