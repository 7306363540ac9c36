"""One cluster for all lab tests; each test leaves it as it found it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from libcalico.testing.machine import DIE_WITH_US, need
from tests.lab import Cluster
from tests.lab.demo import POLICY
from tests.lab.rootfs import debian_root
from tests.lab.systemd import CLONE, need_systemd


def pytest_collection_finish(session: pytest.Session) -> None:
    """The root that hosts are booted from is made, where it is missing, while other tests run."""
    if os.geteuid() == 0 and any("debian" in getattr(item, "fixturenames", ()) for item in session.items):
        command = [*DIE_WITH_US, sys.executable, "-m", "tests.lab.rootfs"]
        subprocess.Popen(command, cwd=CLONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def debian() -> Path:
    """The root that hosts are booted from, by systemd."""
    need_systemd()
    return debian_root()


@pytest.fixture(scope="session")
def booted() -> Iterator[Cluster]:
    """Three hosts with agents that are ready."""
    need(os.geteuid() == 0, "root", "run as root")
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    with Cluster() as cluster:
        cluster.start()
        yield cluster


@pytest.fixture
def cluster(booted: Cluster) -> Iterator[Cluster]:
    """The cluster, cleaned up afterwards: no task, no policy, every agent up."""
    yield booted
    for name in booted.hosts:
        if name not in booted.agents:
            booted.start_agent(name)
            booted.wait_agent(name)
        booted.mesos(name).close()
    for kind in ("networkpolicy", "globalnetworkpolicy", "networkset", "globalnetworkset"):
        for prefix in booted.etcdctl(
            "get", "--prefix", "--keys-only", f"/calico/resources/v3/projectcalico.org/{plural(kind)}/"
        ).stdout.split():
            booted.etcdctl("del", prefix)


def plural(kind: str) -> str:
    """The path segment of a kind."""
    return kind.removesuffix("y") + "ies" if kind.endswith("y") else kind + "s"


@pytest.fixture
def policy(cluster: Cluster) -> str:
    """The bookstore's policy as a file on m1."""
    cluster.hosts["m1"].write("/run/policy.yaml", POLICY)
    return "/run/policy.yaml"
