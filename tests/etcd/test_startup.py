"""Start-up against a real etcd: many hosts at the same instant, again and again, and with etcd gone at any step."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from calico_felix.startup import modes, sequence
from calico_felix.startup.detection import Interface
from calico_felix.startup.host import HostNetwork
from calico_felix.startup.sequence import Startup
from calico_felix.startup.tunnels import ensure_tunnel_addresses
from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import TxnResult
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import EtcdConfig
from libcalico.errors import CalicoError, DatastoreError
from libcalico.ipam.service import IpamService
from libcalico.model import ClusterInformation, FelixConfiguration, IPPool, Node
from libcalico.model.scalars import IPNetwork
from libcalico.net import bare_address
from tests.etcd.programs import run
from tests.etcd.servers import Server, running

DEAD = "http://127.0.0.1:9"
HOSTS = 50
MOST_REQUESTS = 34
"""Of one host, when all are new at once; alone it makes a few less."""
VARIABLES = {"CALICO_IPV4POOL_CIDR": "172.29.0.0/16", "CALICO_IPV4POOL_VXLAN": "Always", "CLUSTER_TYPE": "dcos"}
REVISION = re.compile(r'"Revision" : (\d+)')
HANDLED = re.compile(r'^grpc_server_handled_total\{.*grpc_method="(?:Range|Txn)".* (\d+)$', re.MULTILINE)


class Network(HostNetwork):
    """A host with one interface of its own."""

    def __init__(self, number: int) -> None:
        self._cidr = f"10.20.{number}.5/16"

    def interfaces(self) -> list[Interface]:
        return [Interface(2, "eth0", (self._cidr,))]

    def networks(self) -> list[IPNetwork]:
        return []

    def has_ipv6(self) -> bool:
        return True


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(sequence, "DIRECTORIES", ())
    one = Server(tmp_path)
    with running(one):
        yield one


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[EtcdDatastore]:
    datastore = EtcdDatastore(EtcdConfig((server.url,)))
    try:
        yield datastore
    finally:
        await datastore.close()


def startup(datastore: Any, folder: Path, number: int, **environment: str) -> Startup:
    files = {"CALICO_NODENAME_FILE": str(folder / f"n{number}"), "CALICO_SHUTDOWN_TIMESTAMP_FILE": str(folder / "no")}
    variables = {**VARIABLES, **files, **environment}
    return Startup(AsyncClient(datastore), f"host-{number}", variables, network=Network(number))


async def boot(server: Server, folder: Path, number: int, all_there: asyncio.Barrier) -> None:
    """What a host's start script does, on a connection of its own."""
    async with connected(server) as datastore:
        await all_there.wait()
        await startup(datastore, folder, number).run()
        name = f"host-{number}"
        await ensure_tunnel_addresses(AsyncClient(datastore), IpamService(datastore, name), name)


def requests(server: Server) -> int:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=5) as answer:
        return sum(map(int, HANDLED.findall(answer.read().decode())))


async def revision(datastore: EtcdDatastore) -> int:
    return (await datastore.range(b"/none")).revision


async def test_many_hosts_at_the_same_instant(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = []
    for _run in range(2):
        before, all_there = requests(server), asyncio.Barrier(HOSTS)
        async with connected(server) as datastore:
            stood = await revision(datastore)
            await asyncio.gather(*(boot(server, tmp_path, number, all_there) for number in range(HOSTS)))
            counts.append((requests(server) - before) / HOSTS)
            written = await revision(datastore) - stood
            client = AsyncClient(datastore)
            pools = (await client.list(IPPool)).items
            nodes = (await client.list(Node)).items
            settings = (await client.list(FelixConfiguration)).items
            cluster = (await client.get(ClusterInformation, "default")).spec
    assert [pool.metadata.name for pool in pools] == ["default-ipv4-ippool", "default-ipv6-ippool"]
    assert pools[0].spec.cidr == "172.29.0.0/16" and pools[1].spec.cidr.startswith("fd")
    tunnels = {node.spec.ipv4_vxlan_tunnel_addr for node in nodes}
    addresses = {bare_address(node.spec.bgp.ipv4_address) for node in nodes if node.spec.bgp is not None}
    assert len(nodes) == len(tunnels) == len(addresses) == HOSTS and "" not in tunnels
    assert len(settings) == HOSTS + 1 and settings[0].spec["vxlanEnabled"] is True
    assert (cluster.cluster_type, cluster.datastore_ready) == ("dcos", True) and len(cluster.cluster_guid) == 32
    print(f"requests of a host: {counts[0]:.1f} when all are new, {counts[1]:.1f} when nothing is to be done")
    assert counts[0] <= MOST_REQUESTS and written == 0
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")], caplog.text


class Gone:
    """A datastore that goes away after so many requests."""

    def __init__(self, datastore: EtcdDatastore, left: int) -> None:
        self._datastore = datastore
        self.left = left

    def _count(self) -> None:
        if self.left <= 0:
            raise DatastoreError("cannot reach etcd")
        self.left -= 1

    async def txn(self, *arguments: Any) -> TxnResult:
        self._count()
        return await self._datastore.txn(*arguments)

    async def get(self, key: bytes) -> Any:
        self._count()
        return await self._datastore.get(key)

    async def range(self, *arguments: Any, **more: Any) -> Any:
        self._count()
        return await self._datastore.range(*arguments, **more)


async def test_etcd_gone_at_each_step_and_back(server: Server, tmp_path: Path) -> None:
    """Each try gets one request further; what the former ones have left is no hindrance, and the gate opens last."""
    async with connected(server) as datastore:
        for left in range(100):
            gone = Gone(datastore, left)
            try:
                await startup(gone, tmp_path, 1).run()
            except DatastoreError as error:
                assert str(error) == "cannot reach etcd" and not (tmp_path / "n1").exists()
                continue
            break
        assert 5 < left < 99 and (tmp_path / "n1").read_text() == "host-1"
        stood = await revision(datastore)
        await startup(datastore, tmp_path, 1).run()
        assert await revision(datastore) == stood
        for left in range(100):
            try:
                ipam = IpamService(Gone(datastore, left), "host-1")  # type: ignore[arg-type]
                await ensure_tunnel_addresses(AsyncClient(Gone(datastore, left)), ipam, "host-1")  # type: ignore[arg-type]
            except CalicoError:
                continue
            break
        node = await AsyncClient(datastore).get(Node, "host-1")
        held = await IpamService(datastore, "host-1").ips_by_handle("vxlan-tunnel-addr-host-1")
        assert held == (node.spec.ipv4_vxlan_tunnel_addr,)


async def test_two_new_hosts_with_one_address_at_once(server: Server, tmp_path: Path) -> None:
    """One of them has it, whoever is faster, and the other says so."""
    for turn in range(5):
        numbers, address = (10 * turn + 1, 10 * turn + 2), f"10.20.{200 + turn}.1"
        async with connected(server) as first, connected(server) as second:
            runs = [
                startup(one, tmp_path, number, IP=address).run()
                for one, number in zip((first, second), numbers, strict=True)
            ]
            done = await asyncio.gather(*runs, return_exceptions=True)
            assert sorted(type(one).__name__ for one in done) == ["NoneType", "Taken"], done
            nodes = (await AsyncClient(first).list(Node)).items
        with_it = [one for one in nodes if one.spec.bgp is not None and one.spec.bgp.ipv4_address.startswith(address)]
        assert len(with_it) == 1


async def test_two_hosts_with_one_address(server: Server, tmp_path: Path) -> None:
    async with connected(server) as datastore:
        await startup(datastore, tmp_path, 1).run()
        with pytest.raises(CalicoError, match="Calico node 'host-1' is already using the IPv4 address"):
            await startup(datastore, tmp_path, 2, IP="10.20.1.5").run()
        assert not (tmp_path / "n2").exists(), "the CNI plug-in's gate stays shut"
        await startup(datastore, tmp_path, 2, IP="10.20.1.5", DISABLE_NODE_IP_CHECK="true").run()


def test_the_program(server: Server, tmp_path: Path) -> None:
    """As a unit runs it: the second time it writes nothing; without etcd it ends in bounded time."""
    environment = {
        "ETCD_ENDPOINTS": server.url, "NODENAME": "n", "IP": "10.20.0.9/24", "CALICO_IPV4POOL_CIDR": "172.29.0.0/16",
        "CALICO_IPV4POOL_IPIP": "CrossSubnet", "AS": "64600", "CALICO_DISABLE_FILE_LOGGING": "true",
        "CALICO_NODENAME_FILE": str(tmp_path / "nodename"), "FELIX_IPV6SUPPORT": "false",
    }  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        dead = pool.submit(run, "calico_felix.node", "-startup", **{**environment, "ETCD_ENDPOINTS": DEAD})
        for mode in ("-startup", "-allocate-tunnel-addrs"):
            stood = []
            for _turn in range(2):
                done = run("calico_felix.node", mode, **environment)
                assert (done.status, done.errors) == (0, ""), done.output
                stored = server.etcdctl("get --prefix /calico -w fields")
                stood.append(REVISION.findall(stored)[0])
            assert stood[0] == stood[1]
        assert "default-ipv6-ippool" not in stored and "ipv4IPIPTunnelAddr" in stored
        assert dead.result().status == 1 and dead.result().took_s < 20
        assert "ERROR: Error accessing the Calico datastore: cannot reach etcd at" in dead.result().output


@pytest.mark.slow
def test_waiting_for_the_datastore(tmp_path: Path) -> None:
    """WAIT_FOR_DATASTORE: etcd may come later than the hosts."""
    server = Server(tmp_path)
    environment = {
        "ETCD_ENDPOINTS": server.url, "NODENAME": "n", "IP": "10.20.0.9/24", "NO_DEFAULT_POOLS": "true",
        "CALICO_NODENAME_FILE": str(tmp_path / "nodename"), "WAIT_FOR_DATASTORE": "true",
        "CALICO_DISABLE_FILE_LOGGING": "true",
    }  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, "calico_felix.node", "-startup", **environment)
        time.sleep(11)  # longer than a client tries by itself
        assert not waiting.done()
        with running(server):
            done = waiting.result()
    assert done.status == 0 and "waiting for the datastore: cannot reach etcd at" in done.output, done.output
    assert (tmp_path / "nodename").read_text() == "n"


async def test_tunnel_addresses_in_a_loop_of_their_own(server: Server, tmp_path: Path) -> None:
    """`-allocate-tunnel-addrs-daemon`, beside an agent that is not ours; it ends when a pool cannot be read."""
    async with connected(server) as datastore:
        await startup(datastore, tmp_path, 1, CALICO_IPV4POOL_VXLAN="never").run()
        client = AsyncClient(datastore)
        loop = asyncio.ensure_future(modes.keep_tunnel_addresses({"ETCD_ENDPOINTS": server.url, "NODENAME": "host-1"}))
        pool = await client.get(IPPool, "default-ipv4-ippool")
        spec = msgspec.structs.replace(pool.spec, ipip_mode="Always")
        await client.update(msgspec.structs.replace(pool, spec=spec))
        async with asyncio.timeout(20):
            while True:
                routing = (await client.get(Node, "host-1")).spec.bgp
                if routing is not None and routing.ipv4_ipip_tunnel_addr:
                    break
                await asyncio.sleep(0.05)
        await datastore.put(b"/calico/resources/v3/projectcalico.org/ippools/bad", b"{")
        with pytest.raises(CalicoError, match=r"ippools/bad: repair or delete them"):
            await asyncio.wait_for(loop, 20)
