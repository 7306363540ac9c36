"""How many requests a command makes, as etcd itself counts them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request

import pytest

from libcalico.client.blocking import Client
from libcalico.testing.etcd import Etcd

COUNTED = re.compile(r'^grpc_server_handled_total\{[^}]*grpc_service="etcdserverpb\.[^}]*\} (\d+)$', re.MULTILINE)
SET = "{{apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{name: {name}{more}}}, spec: {spec}}}"
OBJECTS = {
    "networkset": SET.format(kind="GlobalNetworkSet", name="s", more="", spec="{nets: [192.0.2.0/24]}"),
    "policy": SET.format(kind="NetworkPolicy", name="p", more=", namespace: default", spec="{selector: all()}"),
    "node": SET.format(kind="Node", name="n", more="", spec="{}"),
    "pool": SET.format(kind="IPPool", name="i", more="", spec="{cidr: 10.61.0.0/16}"),
}


def requests(etcd: Etcd) -> int:
    """How many requests this etcd has answered."""
    with urllib.request.urlopen(f"{etcd.endpoint}/metrics", timeout=10) as answer:
        return sum(int(count) for count in COUNTED.findall(answer.read().decode()))


def calicoctl(etcd: Etcd, command: str, stdin: str = "") -> int:
    """How many requests a command makes; it must succeed."""
    before = requests(etcd)
    environment = {**os.environ, "DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": etcd.endpoint}
    words = [sys.executable, "-m", "calicoctl.main", *command.split()]
    done = subprocess.run(words, env=environment, input=stdin, text=True, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return requests(etcd) - before


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_command_that_writes_one_object_makes_three_requests(etcd: Etcd, kind: str) -> None:
    """What the cluster is, what stands in the object's place, and the write."""
    with Client(etcd.endpoint) as client:
        client.ensure_initialized()
    document = OBJECTS[kind]
    assert calicoctl(etcd, "apply -f -", document) == 3
    assert calicoctl(etcd, "apply -f -", document) == 3
    assert calicoctl(etcd, "replace -f -", document) == 3
    if kind in ("networkset", "policy"):
        assert calicoctl(etcd, "delete -f -", document) <= 3
        assert calicoctl(etcd, "create -f -", document) <= 3


def test_a_command_that_reads_asks_once_for_each_thing_that_it_shows(etcd: Etcd) -> None:
    """The cluster's release, the objects, and for a wide table of nodes the AS number of the cluster."""
    assert calicoctl(etcd, "get globalnetworksets") == 2
    assert calicoctl(etcd, "get globalnetworksets --allow-version-mismatch") == 1
    assert calicoctl(etcd, "get nodes") == 2
    assert calicoctl(etcd, "get nodes -o wide") == 3
