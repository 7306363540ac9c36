"""The packages, built once for all tests of them: one runtime, packed as one version and as the next."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from libcalico.testing.machine import need
from tests.lab.systemd import CLONE, need_systemd
from tests.packaging.deb_host import NEXT, NOW

DEBS = CLONE / "build/packaging/tested-debs"
"""Where booted hosts see them."""
PATHS = f"{CLONE}/packaging/runtime:{CLONE}/packaging/debian"


def build(module: str, *words: str) -> None:
    """A builder of ours, as the Makefile calls it."""
    python = str(CLONE / ".venv/bin/python")
    subprocess.run([python, "-m", module, *words], env={**os.environ, "PYTHONPATH": PATHS}, cwd=CLONE, check=True)


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The runtime's tree for packages of Debian."""
    need(os.geteuid() == 0, "root", "run as root")
    tree = CLONE / "build/packaging/tested-runtime"
    shutil.rmtree(tree, ignore_errors=True)
    build("calico_runtime", "--out", str(tree), "--prefix", "/usr/lib/calico", "--host-libc")
    return tree


@pytest.fixture(scope="session")
def debs(runtime: Path) -> Mapping[str, Path]:
    """The folder of each version's packages."""
    shutil.rmtree(DEBS, ignore_errors=True)
    for version in (NOW, NEXT):
        build("calico_debian", "--out", str(DEBS / version), "--version", version, "--runtime", str(runtime))
    return {version: DEBS / version for version in (NOW, NEXT)}


@pytest.fixture(scope="session")
def debian() -> None:
    """The root that hosts are booted from, by systemd."""
    need_systemd()
