"""Two hosts, each with a real BIRD and our configuration: sessions, routes, changes, and a BIRD that hangs."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_bird.apply import Change, apply
from calico_bird.render import Renderer
from calico_bird.routing import Routing
from calico_bird.testing import node, resource, routing
from libcalico.bird.control import configure, show_protocols, show_routes, show_status
from libcalico.bird.replies import NextHop, Route
from libcalico.datastore.contract import Delete
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import etcd_config, from_environment
from libcalico.errors import Unavailable
from libcalico.model.keys import AffinityKey, ResourceKey, key_path
from libcalico.testing.bird import find_bird
from libcalico.testing.etcd import Etcd
from tests.netns.bird_host import TIMEOUT_S, Bird, Confd, until
from tests.netns.spaces import Space, sh

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root"), pytest.mark.slow]
OBJECTS = [
    node("h1", "10.77.0.1/24", "fd77::1/64"),
    node("h2", "10.77.0.2/24", "fd77::2/64"),
    resource("IPPool", "plain", cidr="10.88.0.0/16", ipipMode="Never", vxlanMode="Never"),
    resource("IPPool", "plain6", cidr="fd88::/48", ipipMode="Never", vxlanMode="Never"),
]
BLOCKS = {"h1": ["10.88.1.0/26", "fd88:0:0:1::/122"], "h2": ["10.88.2.0/26", "fd88:0:0:2::/122"]}
SECRETS = {("s", "k"): "not a real one"}
CHANGES = 500


class Host(Bird):
    """One of the two, with a configuration that is rendered here."""

    def __init__(self, name: str, space: Space, folder: Path) -> None:
        super().__init__(name, space.name, folder)
        self.renderer = Renderer()

    def state(self, *objects: dict[str, object], secrets: dict[tuple[str, str], str] | None = None) -> Routing:
        return routing(self.name, [*OBJECTS, *objects], blocks=BLOCKS[self.name], passwords=secrets)

    async def take(self, state: Routing) -> Change:
        applied = await apply(self.renderer.render(state).text, self.file, find_bird(), TIMEOUT_S)
        assert applied.change is not Change.REFUSED, applied.reason
        if self.process is not None and applied.change is Change.WRITTEN:
            await configure(self.socket, TIMEOUT_S)
        return applied.change


@pytest.fixture
def hosts(host: Space, other: Space, tmp_path: Path) -> Iterator[list[Host]]:
    sh("ip", "-n", host.name, "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", other.name)
    made = [Host("h1", host, tmp_path), Host("h2", other, tmp_path)]
    for place, space in enumerate((host, other), 1):
        space.ip("addr", "add", f"10.77.0.{place}/24", "dev", "up0")
        space.ip("addr", "add", f"fd77::{place}/64", "dev", "up0", "nodad")
        space.ip("link", "set", "up0", "up")
    yield made
    for one in made:
        one.kill()


async def _all_up(hosts: list[Host], count: int) -> bool:
    return all([len(await one.established()) == count for one in hosts])


async def test_containers_networks_reach_the_other_host_and_changes_drop_no_session(hosts: list[Host]) -> None:
    for one in hosts:
        await one.take(one.state())
        one.start()
    await until(lambda: _all_up(hosts, 2), "a session for each family")
    await until(lambda: hosts[0].routes() == set(BLOCKS["h2"]) and hosts[1].routes() == set(BLOCKS["h1"]), "blocks")
    before = [await one.established() for one in hosts]
    for number in range(CHANGES):
        changed = resource(
            "IPPool", "more", cidr=f"10.{100 + number % 100}.0.0/16", ipipMode="Never", vxlanMode="Never"
        )
        router = resource("BGPPeer", "router", peerIP=f"198.51.{number // 200}.{number % 200 + 1}", asNumber=65100)
        assert await hosts[0].take(hosts[0].state(changed, router)) is Change.WRITTEN
    assert await hosts[0].take(hosts[0].state(changed, router)) is Change.UNCHANGED
    assert [await one.established() for one in hosts] == before
    await _answers_are_read(hosts[0])


async def _answers_are_read(host: Host) -> None:
    """What the real BIRD answers, as values."""
    status = await show_status(host.socket, TIMEOUT_S)
    assert (status.version[:2], status.router_id, status.daemon) == ("2.", "10.77.0.1", "Daemon is up and running")
    rows = {row.name: row for row in await show_protocols(host.socket, TIMEOUT_S, details=True)}
    assert (rows["Mesh_fd77__2"].neighbor, rows["Mesh_fd77__2"].bgp_state) == ("fd77::2", "Established")
    routes = await show_routes(host.socket, TIMEOUT_S)
    hops = (NextHop("10.77.0.2", "up0"),)
    assert Route("10.88.2.0/26", "unicast", "Mesh_10_77_0_2", True, hops) in routes
    assert Route("10.88.1.0/26", "blackhole", "calico_static4", True, ()) in routes


async def test_filters_filter_and_passwords_count(hosts: list[Host]) -> None:
    mesh = resource("BGPConfiguration", "default", nodeToNodeMeshEnabled=False)
    password = {"secretKeyRef": {"name": "s", "key": "k"}}
    peer = resource("BGPPeer", "all", peerSelector="all()", filters=["f"], password=password)
    only_v6 = resource("BGPFilter", "f", importV4=[{"action": "Reject"}], importV6=[{"action": "Accept"}])
    for one in hosts:
        await one.take(one.state(mesh, peer, only_v6, secrets=SECRETS))
        one.start()
    await until(lambda: _all_up(hosts, 2), "a session for each family")
    await until(lambda: hosts[0].routes() == {BLOCKS["h2"][1]}, "the IPv6 block alone")
    await hosts[1].take(hosts[1].state(mesh, peer, only_v6))
    await until(lambda: _none_up(hosts[0]), "no session without the password")
    assert {row.state for row in (await hosts[1].sessions()).values()} == {"down"}


async def _none_up(host: Host) -> bool:
    return not await host.established()


async def test_a_bird_that_hangs_and_one_that_is_back(hosts: list[Host]) -> None:
    first = hosts[0]
    await first.take(first.state())
    first.start()
    await until(first.sessions, "BIRD is up")
    assert first.process is not None
    first.signal(signal.SIGSTOP)
    with pytest.raises(Unavailable, match="did not answer 'configure' within"):
        await configure(first.socket, 0.5)
    first.signal(signal.SIGCONT)
    assert await configure(first.socket, TIMEOUT_S) == "reconfigured"


async def test_the_daemons_of_two_hosts_with_etcd(hosts: list[Host], etcd: Etcd) -> None:
    store = EtcdDatastore(etcd_config(from_environment({"ETCD_ENDPOINTS": etcd.endpoint})))
    for stored in OBJECTS:
        key = ResourceKey(stored["kind"], stored["metadata"]["name"])
        await store.put(key_path(key).encode(), json.dumps(stored).encode())
    for name, blocks in BLOCKS.items():
        for block in blocks:
            await store.put(key_path(AffinityKey(name, block)).encode(), b'{"state":"confirmed"}')
    confds = [Confd(one, one.name, etcd.endpoint) for one in hosts]
    try:
        await until(lambda: all(one.file.exists() for one in hosts), "files")
        for one in hosts:
            one.start()
        await until(lambda: _all_up(hosts, 2), "a session for each family")
        await until(lambda: hosts[0].routes() == set(BLOCKS["h2"]), "blocks")
        before = [await one.established() for one in hosts]
        more = key_path(AffinityKey("h2", "10.88.3.0/26")).encode()
        await store.put(more, b'{"state":"confirmed"}')
        await until(lambda: "10.88.3.0/26" in hosts[0].routes(), "the new block")
        confds[0].kill()
        await store.txn([], [Delete(more)])
        await until(lambda: "10.88.3.0/26" not in hosts[0].routes(), "the block is gone")
        confds[0] = Confd(hosts[0], "h1", etcd.endpoint)
        await store.put(key_path(AffinityKey("h1", "10.88.4.0/26")).encode(), b'{"state":"confirmed"}')
        await until(lambda: "10.88.4.0/26" in hosts[1].routes(), "the block of a daemon that was killed and is back")
        assert [await one.established() for one in hosts] == before
    finally:
        for confd in confds:
            confd.kill()
        await store.close()
