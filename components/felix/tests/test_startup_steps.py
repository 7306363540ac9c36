"""The steps of start-up around the Node and the pools: who waits, what is written where, what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from calico_felix.startup import names, sequence
from calico_felix.startup.detection import Interface
from calico_felix.startup.host import HostNetwork
from calico_felix.startup.sequence import Startup
from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import KeyValue
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData, ConnectionUnauthorized
from libcalico.model.scalars import IPNetwork


class Network(HostNetwork):
    """A host with one interface."""

    def interfaces(self) -> list[Interface]:
        return [Interface(2, "eth0", ("10.0.0.5/24",))]

    def networks(self) -> list[IPNetwork]:
        return []

    def has_ipv6(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "DIRECTORIES", ())


def startup(client: AsyncClient, folder: Path, **environment: str) -> Startup:
    files = {"CALICO_NODENAME_FILE": str(folder / "nodename"), "CALICO_SHUTDOWN_TIMESTAMP_FILE": str(folder / "down")}
    return Startup(client, "here", {**files, **environment}, network=Network())


async def test_a_host_that_was_prepared_before_does_not_initialise_a_datastore_that_lost_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    monkeypatch.setattr(sequence, "POLL_S", 0.01)
    client, nodename = AsyncClient(MemoryDatastore()), tmp_path / "nodename"
    one = startup(client, tmp_path)
    await one.wait_initialized()
    nodename.write_text("here")
    waiting = asyncio.ensure_future(one.wait_initialized())
    assert not (await asyncio.wait({waiting}, timeout=0.1))[0]
    assert caplog.text.count(f"({nodename} is there)") == 1
    await client.ensure_initialized()
    await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("whole", [False, True])
async def test_the_second_run_writes_nothing(tmp_path: Path, whole: bool) -> None:
    datastore = MemoryDatastore()
    for _run in range(2):
        before = (await datastore.range(b"/")).revision
        one = startup(AsyncClient(datastore), tmp_path, CALICO_IPV4POOL_VXLAN="Always", CLUSTER_TYPE="dcos")
        await (one.run_whole() if whole else one.run())
    assert (await datastore.range(b"/")).revision == before
    nodename = tmp_path / "nodename"
    assert nodename.read_text() == "here" and nodename.stat().st_mode & 0o777 == 0o644
    stored = {kv.key.rpartition(b"projectcalico.org/")[2].decode() for kv in (await datastore.range(b"/calico")).kvs}
    assert {"nodes/here", "ippools/default-ipv4-ippool", "ippools/default-ipv6-ippool", "clusterinformations/default",
            "bgpconfigurations/default", "felixconfigurations/default", "felixconfigurations/node.here",
            } <= stored  # fmt: skip
    assert ("profiles/calico" in stored) is whole


async def test_the_time_of_a_shutdown_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (tmp_path / "down").write_text("2026-03-01T10:00:30Z")
    one = startup(AsyncClient(MemoryDatastore()), tmp_path)
    one.finish()
    one.finish()
    assert caplog.text.count("was shut down at 2026-03-01T10:00:30Z") == 1 and not (tmp_path / "down").exists()


async def test_nothing_is_stored_where_the_name_cannot_be_kept(tmp_path: Path) -> None:
    datastore = MemoryDatastore()
    one = startup(AsyncClient(datastore), tmp_path, CALICO_NODENAME_FILE="/proc/nowhere/nodename")
    with pytest.raises(
        BadData, match=r"cannot write /proc/nowhere/nodename: .*make the folder, and mount it read-write"
    ):
        await one.run()
    assert not (await datastore.range(b"/")).kvs
    with pytest.raises(BadData, match=r"cannot write /proc/nodename: .*: make the folder"):
        names.write_whole(Path("/proc/nodename"), "x")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("WAIT_FOR_DATASTORE", "perhaps", "is not true or false"),
        ("NO_DEFAULT_POOLS", "2", "is not true or false"),
        ("CLUSTER_TYPE", "a b", "is not words with a comma between them"),
        ("CALICO_NODENAME_FILE", "a\nb", "is not a path"),
        ("CALICO_NETWORKING_BACKEND", "brid", "is not one of bird, vxlan, none (did you mean bird?)"),
        ("IP", "10.0.0.256", "is not an IPv4 address such as"),
        ("IP", "fd00::1", "is not an IPv4 address such as"),
        ("IP", "127.0.0.1", "is an address that no other host reaches"),
        ("IP6", "fe80::1", "is an address that no other host reaches"),
        ("IP6", "fd00::1%eth0", "is not an IPv6 address such as"),
        ("AS", "4294967296", "is not an AS number"),
        ("AS", "1.65536", "is not an AS number"),
        ("AS", "-1", "is not an AS number"),
        ("DISABLE_NODE_IP_CHECK", "nope", "is not true or false"),
        ("AUTODETECT_POLL_INTERVAL", "0s", "is shorter than 1 s"),
        ("IP_AUTODETECTION_METHOD", "first", "is no method: use first-found"),
        ("IP_AUTODETECTION_METHOD", "kubernetes-internal-ip", "needs Kubernetes, which is not supported here: use"),
        ("IP_AUTODETECTION_METHOD", "interface=", "has nothing after interface="),
        ("IP_AUTODETECTION_METHOD", "interface=eth(", "has 'eth(', which is no regular expression"),
        ("IP_AUTODETECTION_METHOD", "cidr=10.0.0.0", "has '10.0.0.0', which is no network such as"),
        ("IP6_AUTODETECTION_METHOD", "can-reach=a b", "does not name one host or address"),
    ],
)
def test_a_variable_with_a_bad_value_is_named(tmp_path: Path, name: str, text: str, reason: str) -> None:
    with pytest.raises(BadData) as error:
        startup(AsyncClient(MemoryDatastore()), tmp_path, **{name: text})
    shown = text.replace("\n", "\\n")
    assert str(error.value).startswith(f"{name}='{shown}' {reason}")
    assert str(error.value).endswith(": correct it, or leave the variable out")


class Refusing(MemoryDatastore):
    """Refuses who asks."""

    async def get(self, *_arguments: object, **_more: object) -> KeyValue | None:
        raise ConnectionUnauthorized("etcdserver: user name is empty")


async def test_a_datastore_that_refuses_us_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(ConnectionUnauthorized):
        await startup(AsyncClient(Refusing()), tmp_path, WAIT_FOR_DATASTORE="true").run()
    assert not (tmp_path / "nodename").exists()
