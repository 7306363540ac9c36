"""S20, S21, S22: business isolation."""

from __future__ import annotations

import json
import re

import pytest

from tests.lab import Cluster, Task
from tests.lab.demo import TASKS

BUDGET_S = 5.0
ANSWER_S, SILENCE_S = 5.0, 2.0
"""An answer may be slow to come; what is dropped would have come by then."""
TIMES_OUT = 28
SUCCESS = "Successfully applied 1 'NetworkPolicy' resource(s)\n"


@pytest.fixture(params=["two hosts", "one host"])
def shop(request: pytest.FixtureRequest, cluster: Cluster) -> dict[str, Task]:
    """The three tasks."""
    one = request.param == "one host"
    return {
        name: cluster.mesos("a2" if one else host).launch(name, labels=labels) for name, (host, labels) in TASKS.items()
    }


def reaches(client: Task, server: Task) -> bool:
    return _fetches(client, server, ANSWER_S)


def is_dropped(client: Task, server: Task) -> bool:
    """Ask when the kernel is as it should be: it does not wait for that."""
    return not _fetches(client, server, SILENCE_S)


def _fetches(client: Task, server: Task, timeout_s: float) -> bool:
    status, _ = client.fetch(server.address, timeout_s=timeout_s)
    assert status in (0, TIMES_OUT), "a policy must never refuse, only drop"
    return status == 0


def test_s20_before_the_policy(shop: dict[str, Task]) -> None:
    server = shop["bookstore-server"]
    answers = {shop[name].fetch(server.address) for name in ("bookstore-frontend", "fruitstore-frontend")}
    assert len(answers) == 1
    status, identity = answers.pop()
    assert status == 0 and len(identity) == 12


def test_s21_policy_applied_and_deleted(cluster: Cluster, shop: dict[str, Task], policy: str) -> None:
    server, book, fruit = (shop[n] for n in ("bookstore-server", "bookstore-frontend", "fruitstore-frontend"))
    fruit.host.start(["python3", "-c", _slow_client(server.address)], netns=fruit.netns)
    cluster.wait("the long connection", lambda: _ticks(fruit) > 0)
    done = cluster.calicoctl("apply", "-f", policy)
    assert done.stdout == SUCCESS
    keys = cluster.etcdctl(
        "get", "--prefix", "--keys-only", "/calico/resources/v3/projectcalico.org/networkpolicies/"
    ).stdout
    assert keys.split() == [
        "/calico/resources/v3/projectcalico.org/networkpolicies/default/allow-bookstore-cliient-to-server"
    ]
    assert "allow-bookstore-cliient-to-server" in cluster.calicoctl("get", "networkPolicy").stdout
    cluster.wait_programmed("a2", BUDGET_S)
    accepted = int(server.fetch(server.address, path="/count")[1])
    assert book.fetch(server.address)[0] == 0
    assert is_dropped(fruit, server)
    assert int(server.fetch(server.address, path="/count")[1]) == accepted + 2
    assert reaches(server, fruit) and reaches(fruit, book)
    ticks = _ticks(fruit)
    cluster.wait("the established connection to go on", lambda: _ticks(fruit) > ticks)
    assert cluster.calicoctl("apply", "-f", policy).stdout == SUCCESS
    cluster.calicoctl("delete", "-f", policy)
    cluster.wait_programmed("a2", BUDGET_S)
    assert reaches(fruit, server)


def test_s22_stated_limits(cluster: Cluster, policy: str) -> None:
    server = cluster.mesos("a2").launch("server", labels={"biz_type": "bookstore", "role": "server"})
    unlabelled = cluster.mesos("a1").launch("unlabelled", serve=False)
    cluster.calicoctl("apply", "-f", policy)
    cluster.wait_programmed("a2", BUDGET_S)
    assert is_dropped(unlabelled, server)
    probe = f"import socket; socket.create_connection(('{server.address}', 80), {SILENCE_S})"
    assert cluster.hosts["a1"].run(["python3", "-c", probe], check=False).returncode != 0
    cluster.hosts["a2"].run(["python3", "-c", probe])


def test_s22_policy_of_another_namespace_has_no_effect(cluster: Cluster) -> None:
    server = cluster.mesos("a2").launch("server", labels={"role": "server"})
    client = cluster.mesos("a1").launch("client", serve=False)
    deny_all = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "other"},
        "spec": {"selector": "all()", "types": ["Ingress"]},
    }
    cluster.calicoctl("apply", "-f", "-", stdin=json.dumps(deny_all))
    cluster.wait_programmed("a2")
    assert reaches(client, server)


def test_s22_new_task_is_allowed_without_any_change(cluster: Cluster, policy: str) -> None:
    server = cluster.mesos("a2").launch("server", labels={"biz_type": "bookstore", "role": "server"})
    cluster.calicoctl("apply", "-f", policy)
    stranger = cluster.mesos("a1").launch("stranger", labels={"biz_type": "fruitstore"}, serve=False)
    cluster.wait_programmed("a2", BUDGET_S)
    assert is_dropped(stranger, server)
    book = cluster.mesos("m1").launch("book", labels={"biz_type": "bookstore"}, serve=False)
    cluster.wait_programmed("a2", BUDGET_S)
    assert reaches(book, server)
    address = re.compile(rf"\b{re.escape(book.address)}\b")
    assert address.search(cluster.hosts["a2"].run("nft list sets inet").stdout)
    cluster.mesos("m1").kill(book)
    cluster.wait(
        "its address to leave the sets",
        lambda: not address.search(cluster.hosts["a2"].run("nft list sets inet").stdout),
    )


def test_an_invalid_policy_does_not_hurt_the_valid_ones(cluster: Cluster, policy: str) -> None:
    server = cluster.mesos("a2").launch("server", labels={"biz_type": "bookstore", "role": "server"})
    client = cluster.mesos("a1").launch("client", labels={"biz_type": "fruitstore"}, serve=False)
    area = "/calico/resources/v3/projectcalico.org"
    for name, value in (
        ("garbage", "{not json"),
        ("number", "7"),
        (
            "bad-port",
            '{"spec":{"selector":"all()","ingress":[{"action":"Allow","protocol":"TCP","destination":{"ports":["0:9"]}}]}}',
        ),
        ('quote";drop', '{"spec":{"selector":"all()","types":["Ingress"],"ingress":[{"action":"Allow"}]}}'),
    ):
        cluster.etcdctl("put", f"{area}/globalnetworkpolicies/{name}", value)
    cluster.etcdctl("put", "/calico/ipam/v2/assignment/ipv4/block/1.2.3.0-26", "[]")
    cluster.calicoctl("apply", "-f", policy)
    cluster.wait_programmed("a2", BUDGET_S)
    assert is_dropped(client, server)
    assert cluster.agents["a2"].poll() is None
    cluster.etcdctl("del", "--prefix", f"{area}/globalnetworkpolicies/")
    cluster.etcdctl("del", "/calico/ipam/v2/assignment/ipv4/block/1.2.3.0-26")


def _slow_client(address: str) -> str:
    return "\n".join(
        [
            "import socket",
            f"s = socket.create_connection(('{address}', 80))",
            "s.sendall(b'GET /slow HTTP/1.0\\r\\n\\r\\n')",
            "f = open('/run/ticks', 'wb', 0)",
            "while True:",
            "    f.write(s.recv(100))",
        ]
    )


def _ticks(task: Task) -> int:
    return int(task.host.run("stat -c %s /run/ticks 2>/dev/null || echo 0").stdout)
