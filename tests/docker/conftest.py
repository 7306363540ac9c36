"""Three hosts of the lab; on two of them an engine with the plug-in, for all tests of a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from libcalico.testing.machine import need
from tests.docker.engine import Engine
from tests.lab.cluster import Cluster

PROGRAMS = {
    "dockerd": "docker.io",
    "etcd": "etcd-server",
    "nft": "nftables",
    "busybox": "busybox-static",
    "curl": "curl",
}


@pytest.fixture(scope="module")
def cluster(root: None) -> Iterator[Cluster]:
    for program, package in PROGRAMS.items():
        need(shutil.which(program) is not None, program, f"apt-get install {package}")
    with Cluster() as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def engines(cluster: Cluster) -> tuple[Engine, Engine]:
    return Engine(cluster, "a1"), Engine(cluster, "a2")
