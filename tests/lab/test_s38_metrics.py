"""S38: what telegraf reads on every host: on each address, in time, in a valid form, with the number of endpoints."""

from __future__ import annotations

import json
import re

from tests.lab.cluster import ADDRESSES, Cluster

PORT = 62091
LINE = re.compile(r"# (HELP|TYPE) [a-zA-Z_:][\w:]* .*|[a-zA-Z_:][\w:]*(\{[^{}]*\})? [-+0-9.eE]+(Inf|NaN)?")


def scrape(cluster: Cluster, name: str, place: str, port: int = PORT) -> str:
    """The page, read as telegraf does, within its time limit; empty when there is none."""
    command = ["curl", "-s", "-g", "-f", "-m", "3", f"http://{place}:{port}/metrics"]
    return cluster.hosts[name].run(command, check=False).stdout


def value(page: str, name: str) -> float:
    (found,) = (line.split()[1] for line in page.splitlines() if line.split()[0] == name)
    return float(found)


def test_s38_metrics_for_telegraf(cluster: Cluster) -> None:
    _set_port(cluster, PORT)
    try:
        for number in range(2):
            cluster.mesos("a1").launch(f"counted-{number}", serve=False)
        for name, count in (("m1", 0), ("a1", 2), ("a2", 0)):
            cluster.wait(f"metrics of {name}", lambda name=name: bool(scrape(cluster, name, "127.0.0.1")))  # type: ignore[misc]
            for place in ("127.0.0.1", "[::1]", ADDRESSES[name]):
                page = scrape(cluster, name, place)
                assert page, f"{name}: {place}"
                assert not [line for line in page.splitlines() if not LINE.fullmatch(line)]
                assert value(page, "felix_active_local_endpoints") == count
            assert not scrape(cluster, name, "127.0.0.1", 9091)
    finally:
        _set_port(cluster, None)
        for name in cluster.hosts:
            cluster.wait("the former port", lambda name=name: bool(scrape(cluster, name, "127.0.0.1", 9091)))  # type: ignore[misc]


def _set_port(cluster: Cluster, port: int | None) -> None:
    patch = json.dumps({"spec": {"prometheusMetricsPort": port}})
    cluster.calicoctl("patch", "felixconfiguration", "default", "--type", "merge", "-p", patch)
