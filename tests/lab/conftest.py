"""One cluster for all lab tests; each test leaves it as it found it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from libcalico.testing.machine import need
from tests.lab import Cluster
from tests.lab.demo import POLICY


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
