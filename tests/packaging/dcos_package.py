"""DC/OS's package of this tree, built once for all tests that want it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ("/usr/bin/python3.11", "-B", str(ROOT / "packaging/dcos/build_package.py"))


def build(*arguments: str) -> Path:
    """The archive that a build with these arguments leaves; what it printed is shown when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "packaging/runtime")}
    done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[1].split("  ", 1)[1])


@cache
def archive() -> Path:
    """`dist/dcos/calico--<id>.tar.xz`, from an earlier build if nothing that goes into it has changed since."""
    return build("--reuse")
