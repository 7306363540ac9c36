"""BIRD 2 as a judge of configurations, and as a daemon for tests."""

from __future__ import annotations

import shutil
import subprocess
import tempfile

from libcalico.testing.machine import need

PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/sbin"
CHECK_S = 60


def has_bird() -> bool:
    """Is the program here?"""
    return shutil.which("bird", path=PATH) is not None


def find_bird() -> str:
    """The program; the test is skipped where it is missing."""
    bird = shutil.which("bird", path=PATH)
    need(bird is not None, "bird", "apt-get install bird2")
    assert bird is not None
    return bird


def refusal(text: str) -> str:
    """What `bird -p` says against a configuration; empty if it takes it."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        command = [find_bird(), "-p", "-c", file.name]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=CHECK_S)
    said = done.stderr.strip()
    return f"exit {done.returncode}: {said}" if done.returncode or said else ""
