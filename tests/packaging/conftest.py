"""The packages, built once for all tests of them: one runtime, packed as one version and as the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from libcalico.testing.machine import need
from tests.lab.systemd import CLONE, need_systemd
from tests.packaging.deb_host import NEXT, NOW

BUILT = CLONE / "build/packaging/tested"
"""Where booted hosts see them."""
PATHS = f"{CLONE}/packaging/runtime:{CLONE}/packaging/debian"


class Packages(NamedTuple):
    """The runtime's tree for packages of Debian, and the folder of each version's packages."""

    runtime: Path
    debs: Mapping[str, Path]


def build(module: str, *words: str) -> None:
    """A builder of ours, as the Makefile calls it."""
    python = str(CLONE / ".venv/bin/python")
    subprocess.run([python, "-m", module, *words], env={**os.environ, "PYTHONPATH": PATHS}, cwd=CLONE, check=True)


@pytest.fixture(scope="session")
def packages(testrun_uid: str) -> Packages:
    """Built by the worker that comes first; the others of the same run wait for it."""
    need(os.geteuid() == 0, "root", "run as root")
    found = Packages(BUILT / "runtime", {version: BUILT / version for version in (NOW, NEXT)})
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / "run").open("a+") as run:
        fcntl.flock(run, fcntl.LOCK_EX)
        run.seek(0)
        if run.read() != testrun_uid:
            for folder in (found.runtime, *found.debs.values()):
                shutil.rmtree(folder, ignore_errors=True)
            build("calico_runtime", "--out", str(found.runtime), "--prefix", "/usr/lib/calico", "--host-libc")
            for version, folder in found.debs.items():
                build("calico_debian", "--out", str(folder), "--version", version, "--runtime", str(found.runtime))
            run.truncate(0)
            run.write(testrun_uid)
    return found


@pytest.fixture(scope="session")
def runtime(packages: Packages) -> Path:
    """The runtime's tree for packages of Debian."""
    return packages.runtime


@pytest.fixture(scope="session")
def debs(packages: Packages) -> Mapping[str, Path]:
    """The folder of each version's packages."""
    return packages.debs


@pytest.fixture(scope="session")
def debian() -> None:
    """The root that hosts are booted from, by systemd."""
    need_systemd()
