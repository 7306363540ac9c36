"""Runs the programs that a build needs; their output is shown only when they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

PYTHON = "/usr/bin/python3.11"
"""Debian's: its interpreter and standard library are what the runtime is made of."""
BUILD_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "315619200",
    "CFLAGS": "-g0",
    "CXXFLAGS": "-g0",
}
"""What a build sees of the machine's environment, so that two builds see the same."""


class BuildError(Exception):
    """A build cannot go on; the text names what is missing or what failed."""


def run(argv: Sequence[str], folder: str = "/", environment: Mapping[str, str] = BUILD_ENVIRONMENT) -> str:
    """Standard output of a program that has to succeed. Raises `BuildError` with the end of its output."""
    try:
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(f"{argv[0]} is not installed (make dev installs what a build needs)") from None
    if done.returncode:
        raise BuildError(f"{' '.join(argv[:4])} ... failed ({done.returncode}):\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def index_environment() -> dict[str, str]:
    """The build's environment with what this machine tells pip of its package index, and nothing else of it."""
    ours = {name: text for name, text in os.environ.items() if name.startswith(("PIP_", "SSL_")) or name == "HOME"}
    proxies = {name: text for name, text in os.environ.items() if name.lower().endswith("_proxy")}
    return {**ours, **proxies, **BUILD_ENVIRONMENT}


def say(text: str) -> None:
    """One line of progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
