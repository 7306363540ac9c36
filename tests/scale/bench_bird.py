"""BIRD's configuration of a node with 1,000 nodes and 10 BGPPeers, in a full mesh of both families; and the way of a
change from the datastore to BIRD, with a real etcd, daemon and BIRD in a namespace (needs root)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from calico_bird.render import Renderer
from calico_bird.testing import Object, node, resource, routing
from libcalico.bird.control import show_status
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import etcd_config, from_environment
from libcalico.model.keys import ResourceKey, key_path
from libcalico.testing.bird import has_bird, refusal
from libcalico.testing.etcd import Etcd
from tests.netns.bird_host import TIMEOUT_S, Bird, Confd, until
from tests.netns.spaces import Space
from tests.scale.report import per_call_us, report

NODES, PEERS = 1000, 10
CHANGES, APART_S, LOOK_S = 20, 1.3, 0.002
BIRD_SETTLES_S = 5.0
"""BIRD is asked to read the file that it has just read, within the daemon's `FILES_EVERY_S`."""


def main() -> None:
    """All of it."""
    objects = _objects(NODES)
    state = routing("n1", objects, blocks=["10.128.3.64/26"])
    whole = _each_ms(lambda: Renderer().render(state))
    renderer = Renderer()
    rendered = renderer.render(state)
    changes = iter(range(65001, 66000))

    def change() -> None:
        one = _peer(0, next(changes))
        state.put(ResourceKey("BGPPeer", one["metadata"]["name"]), json.dumps(one).encode())
        renderer.render(state)

    facts = {"nodes": NODES, "peers": PEERS, "sessions": rendered.sessions}
    report("BIRD's configuration, whole", "ms", whole, **facts)
    report("BIRD's configuration, one peer changed", "ms", _each_ms(change), **facts)
    if has_bird():
        report("bird -p of it", "ms", _each_ms(lambda: refusal(rendered.text)), bytes=len(rendered.text))
    if has_bird() and shutil.which("etcd") and os.geteuid() == 0:
        for nodes in (10, NODES):
            with tempfile.TemporaryDirectory(prefix="t-bird-bench-") as folder:
                asyncio.run(_through(Path(folder), nodes))


def _objects(count: int) -> list[Object]:
    nodes = [
        node(f"n{place}", f"10.{place // 250}.{place % 250}.1/16", f"fd00::{place:x}/64", {"rack": f"r{place % 20}"})
        for place in range(1, count + 1)
    ]
    pool = resource("IPPool", "p", cidr="10.128.0.0/9", ipipMode="Never")
    return [*nodes, *(_peer(place, 65000) for place in range(PEERS)), pool]


async def _through(folder: Path, nodes: int) -> None:
    """From the write of a BGPPeer until BIRD has read the file again, a second apart; and the daemon's memory."""
    etcd, space = Etcd(folder), Space("bench")
    etcd.start()
    bird = Bird("n1", space.name, folder)
    store = EtcdDatastore(etcd_config(from_environment({"ETCD_ENDPOINTS": etcd.endpoint})))
    confd = None
    try:
        for one in _objects(nodes):
            await _put(store, one)
        confd = Confd(bird, "n1", etcd.endpoint)
        await until(bird.file.exists, "the file")
        bird.start()
        await until(bird.sessions, "BIRD")
        await asyncio.sleep(BIRD_SETTLES_S)
        taken = [await _change_ms(store, bird, number) for number in range(CHANGES)]
        report("datastore change to BIRD reloaded", "ms", taken, nodes=nodes, peers=PEERS)
        memory = Path(f"/proc/{confd.process.pid}/status").read_text()
        mib = int(memory.split("VmRSS:")[1].split()[0]) / 1024
        report("dcos-calico-confd, resident", "MiB", [mib], nodes=nodes, peers=PEERS)
    finally:
        if confd is not None:
            confd.kill()
        bird.kill()
        await store.close()
        etcd.kill()
        space.close()


async def _change_ms(store: EtcdDatastore, bird: Bird, number: int) -> float:
    before = (await show_status(bird.socket, TIMEOUT_S)).last_reconfiguration
    started = time.perf_counter()
    await _put(store, _peer(0, 65001 + number))
    while (await show_status(bird.socket, TIMEOUT_S)).last_reconfiguration == before:
        await asyncio.sleep(LOOK_S)
    taken_ms = (time.perf_counter() - started) * 1000
    await asyncio.sleep(APART_S)
    return taken_ms


async def _put(store: EtcdDatastore, one: Object) -> None:
    path = key_path(ResourceKey(one["kind"], one["metadata"]["name"]))
    await store.put(path.encode(), json.dumps(one).encode())


def _peer(place: int, as_number: int) -> Object:
    if place < PEERS // 2:
        return resource("BGPPeer", f"edge{place}", peerIP=f"198.51.100.{place + 1}", asNumber=as_number)
    return resource("BGPPeer", f"rack{place}", nodeSelector=f"rack == 'r{place}'", peerSelector=f"rack == 'r{place}'")


def _each_ms(call: Callable[[], object]) -> list[float]:
    return [taken / 1000 for taken in per_call_us(call, 1)]


if __name__ == "__main__":
    main()
