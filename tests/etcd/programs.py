"""The programs that reach etcd, each run as people run it, with nothing but the given environment."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any, NamedTuple

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Ended(NamedTuple):
    """How a program ended."""

    status: int
    output: str
    errors: str
    took_s: float


def run(module: str, *words: str, stdin: str = "", **environment: str) -> Ended:
    """`python -m module words`."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env={"PATH": PATH, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)


def calicoctl(url: str, **environment: str) -> Ended:
    """`calicoctl get nodes`."""
    return run("calicoctl.main", "get", "nodes", ETCD_ENDPOINTS=url, **environment)


def plugin(command: str, conf: dict[str, Any], **environment: str) -> Ended:
    """The CNI plug-in without an agent, for a container that never was."""
    call = {"CNI_COMMAND": command, "CNI_CONTAINERID": "x", "CNI_IFNAME": "eth0", "CNI_PATH": PATH}
    whole = {"name": "n", "cniVersion": "1.0.0", "type": "calico", "ipam": {"type": "calico-ipam"}, **conf}
    return run("calico_cni.main", "--program", "calico", stdin=json.dumps(whole), **call, **environment)
