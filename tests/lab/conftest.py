"""One cluster for all lab tests; each test leaves it as it found it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from libcalico.testing.machine import need
from tests.lab import Cluster
from tests.lab.booted import FELIX, Booted
from tests.lab.dcos import PORT
from tests.lab.demo import POLICY
from tests.lab.rootfs import debian_root
from tests.lab.systemd import need_systemd
from tests.packaging import dcos_package


@pytest.fixture(scope="session")
def debian() -> Path:
    """The root that hosts are booted from, by systemd."""
    need_systemd()
    return debian_root()


@pytest.fixture(scope="session")
def package(debian: Path) -> Path:
    """The tree of DC/OS's package `calico`."""
    assert debian
    archive = dcos_package.archive()
    return archive.with_name(archive.name.removesuffix(".tar.xz"))


@dataclass(frozen=True)
class FirstBoot:
    """A cluster whose units were started before its etcd, and what was seen then.

    `waiting`: each agent's unit just before etcd started. `converged_s`: how long after it all agents were ready."""

    cluster: Booted
    waiting: dict[str, dict[str, str]]
    converged_s: float


TRIES = 3
"""How often each agent's unit has asked in vain for the datastore before there is one."""


@pytest.fixture(scope="package")
def first_boot(package: Path) -> Iterator[FirstBoot]:
    """DC/OS with VXLAN on a master, an agent and a public agent; another agent, a3, is cabled and switched off."""
    with Booted(package, ("m1", "a1", "p1", "a3")) as cluster:
        cluster.boot("m1", "a1", "p1")
        add_overlay(cluster, "m1")
        cluster.start_units()
        for name in cluster.up:
            tried = lambda name=name: cluster.host(name).journal(FELIX).count("calicoctl create") >= TRIES  # noqa: E731
            cluster.wait(f"{name} to ask for the datastore", tried)
        waiting = {name: cluster.state(name, FELIX) for name in cluster.up}
        cluster.start_etcd()
        started = time.monotonic()
        cluster.wait_ready()
        yield FirstBoot(cluster, waiting, time.monotonic() - started)


@pytest.fixture
def units(first_boot: FirstBoot) -> Iterator[Booted]:
    """The cluster of `first_boot`, cleaned up afterwards: no task, no policy."""
    cluster = first_boot.cluster
    yield cluster
    for name in cluster.up:
        cluster.mesos(name).close()
    delete_policies(cluster)


def add_overlay(cluster: Booted, name: str) -> None:
    """The VXLAN device of DC/OS's own overlay, on the UDP port that Calico's has too."""
    number = cluster.addresses[name].rpartition(".")[2]
    others = (address for other, address in cluster.addresses.items() if other != name)
    cluster.hosts[name].run(
        f"ip link add vtep1024 type vxlan id 1024 dstport {PORT} local {cluster.addresses[name]} dev eth0 noudpcsum"
        f" && ip addr add 44.128.0.{number}/24 dev vtep1024 && ip link set vtep1024 up"
        + "".join(f" && bridge fdb append 00:00:00:00:00:00 dev vtep1024 dst {address}" for address in others)
    )


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
    delete_policies(booted)


def delete_policies(cluster: Cluster) -> None:
    """And the sets of networks that they select."""
    for kind in ("networkpolicy", "globalnetworkpolicy", "networkset", "globalnetworkset"):
        area = f"/calico/resources/v3/projectcalico.org/{plural(kind)}/"
        cluster.etcdctl("del", "--prefix", area)


def plural(kind: str) -> str:
    """The path segment of a kind."""
    return kind.removesuffix("y") + "ies" if kind.endswith("y") else kind + "s"


@pytest.fixture
def policy(cluster: Cluster) -> str:
    """The bookstore's policy as a file on m1."""
    cluster.hosts["m1"].write("/run/policy.yaml", POLICY)
    return "/run/policy.yaml"
