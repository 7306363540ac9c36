"""`libcalico.Client` as a script sees it: what it gets wrong is refused in words that help."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from libcalico.client.blocking import Client
from libcalico.client.ipam import Ipam
from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import Datastore, KeyValue, TxnResult
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import BadData, CalicoError, Unreachable
from libcalico.ipam.audit import Audit
from libcalico.ipam.release import Release
from libcalico.ipam.service import IpamService
from libcalico.model import IPPool

POOL = {"kind": "IPPool", "metadata": {"name": "pool"}, "spec": {"cidr": "172.29.0.0/16"}}
HOST = "agent-1"
ANY = re.compile(r"\bAny\b|_empty")


@pytest.fixture
def calico() -> Iterator[Client]:
    with Client(datastore=MemoryDatastore()) as client:
        client.ensure_initialized()
        client.create({"kind": "Node", "metadata": {"name": HOST}})
        client.create(POOL)
        yield client


@pytest.mark.parametrize("kind", ["WorkloadEndpont", "HostEndpoint", "", None])
def test_a_kind_that_is_not_there_names_those_that_are(calico: Client, kind: Any) -> None:
    for call in (lambda: calico.list(kind), lambda: calico.get(kind, "x"), lambda: calico.delete(kind, "x")):
        with pytest.raises(BadData, match=r"there is no kind .*: the kinds are BGPConfiguration, .*WorkloadEndpoint"):
            call()


@pytest.mark.parametrize("kind", [IPPool, "IPPool", "ippools", "pool", "IPP"])
def test_a_kind_is_a_struct_a_name_or_a_word_of_the_command_line(calico: Client, kind: Any) -> None:
    assert [pool.metadata.name for pool in calico.list(kind)] == ["pool"]
    assert isinstance(calico.get(kind, "pool"), IPPool)
    assert isinstance(calico.delete(kind, "pool"), IPPool)


@pytest.mark.parametrize("thing", ["kind: x", None, 3, [POOL]])
def test_what_is_no_object_is_refused(calico: Client, thing: Any) -> None:
    for call in (calico.apply, calico.create, calico.update, calico.replace):
        with pytest.raises(BadData, match=r"is no object: give a struct of libcalico\.model or a dictionary"):
            call(thing)


@pytest.mark.filterwarnings("error")
def test_a_closed_client_says_so(calico: Client) -> None:
    calico.close()
    calico.close()
    for call in (lambda: calico.list("Node"), lambda: calico.apply(POOL), calico.ipam.get_config):
        with pytest.raises(CalicoError, match="the client is closed: make a new one"):
            call()


def test_calls_of_other_threads_end_when_the_client_is_closed() -> None:
    class Slow(MemoryDatastore):
        async def get(self, *arguments: Any, **options: Any) -> Any:
            await asyncio.sleep(60)

    failures: list[Exception] = []

    def call(client: Client) -> None:
        try:
            client.get("Node", HOST)
        except CalicoError as error:
            failures.append(error)

    client = Client(datastore=Slow())
    threads = [threading.Thread(target=call, args=(client,), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    client.close()
    for thread in threads:
        thread.join(20)
    assert [str(error) for error in failures] == [
        "the client was closed during the call: whether it was done is unknown"
    ] * 4


def test_a_client_is_not_carried_into_another_process(calico: Client) -> None:
    """Its connection's thread is not there: a call would wait for ever."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            calico.close()
            calico.get("Node", HOST)
        except CalicoError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 999) == b"the client is another process's: make a new one after a fork"
    assert calico.get("Node", HOST).metadata.name == HOST


def test_an_address_is_meant_whatever_length_it_is_told_with(calico: Client) -> None:
    """`auto_assign` tells addresses with the length of their block."""
    first, _ = calico.ipam.auto_assign(1, handle="first", host=HOST)
    mine, _ = calico.ipam.auto_assign(3, handle="mine", host=HOST)
    assert first is not None and mine is not None
    assert all(address.endswith("/26") for address in mine.addresses)
    assert calico.ipam.get_assignment_attributes(mine.addresses[0]).handle == "mine"
    released = calico.ipam.release_ips(mine.addresses)
    assert released.done == tuple(address.removesuffix("/26") for address in mine.addresses)
    assert calico.ipam.ips_by_handle("first") == (first.addresses[0].removesuffix("/26"),)
    calico.ipam.assign_ip("172.29.3.77/24", handle="fixed", host=HOST)
    assert calico.ipam.ips_by_handle("fixed") == ("172.29.3.77",)
    for bad in ("172.29.3.77/x", "172.29.3/24", ""):
        with pytest.raises(BadData, match="invalid IP address specified"):
            calico.ipam.release_ips([bad])


@pytest.mark.parametrize("attributes", [{"node": 1}, {"node": None}, {1: "x"}])
def test_attributes_of_addresses_are_text(calico: Client, attributes: Any) -> None:
    with pytest.raises(BadData, match="is not text"):
        calico.ipam.auto_assign(1, handle="h", attributes=attributes, host=HOST)


def test_a_range_of_too_many_blocks_is_refused(calico: Client) -> None:
    calico.create({"kind": "IPPool", "metadata": {"name": "six"}, "spec": {"cidr": "fd00:9::/64"}})
    with pytest.raises(BadData, match=r"has 2\^58 blocks: name parts of it"):
        calico.ipam.claim_affinity("fd00:9::/64", host=HOST)


def test_a_key_that_is_no_text_hides_nothing() -> None:
    store = MemoryDatastore()
    with Client(datastore=store) as client:
        client.create(POOL)
        asyncio.run(store.put(b"/calico/resources/v3/projectcalico.org/ippools/\xff", b"{}"))
        assert [pool.metadata.name for pool in client.list("IPPool")] == ["pool"]


def test_address_management_has_every_operation_of_the_service() -> None:
    """With the same parameters, but those that write more in the same transaction; a script's call may name a host."""
    operations = [name for name, member in vars(IpamService).items() if inspect.iscoroutinefunction(member)]
    for name in (name for name in operations if not name.startswith("_")):
        wanted = [one for one in inspect.signature(getattr(IpamService, name)).parameters if one != "also_store"]
        offered = list(inspect.signature(getattr(Ipam, name)).parameters)
        assert offered in (wanted, [*wanted, "host"]), name
        assert getattr(Ipam, name).__doc__, name


@pytest.mark.parametrize("offered", [Client, AsyncClient, Ipam, IpamService, Audit, Datastore])
def test_what_scripts_call_is_typed_and_documented(offered: type) -> None:
    """No `Any`, no parameter without a name, and a docstring for each call."""
    for name, member in inspect.getmembers(offered):
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        function = member.fget if isinstance(member, property) else member
        assert function is not None and function.__doc__, name
        signature = inspect.signature(function)
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}, name
        said = [str(one.annotation) for one in list(signature.parameters.values())[1:]]
        assert not [text for text in (*said, str(signature.return_annotation)) if ANY.search(text)], name


def test_addresses_are_for_a_host(calico: Client) -> None:
    ipam = calico.ipam
    for call in (lambda: ipam.auto_assign(1), lambda: ipam.assign_ip("172.29.0.9"), ipam.ensure_block):
        with pytest.raises(BadData, match=r"name the host that it is for: host='\.\.\.'"):
            call()
    assert calico.ipam.get_utilization()[0].blocks == ()


@pytest.mark.parametrize(
    ("count", "options"), [("num4", {"num4": -1}), ("num6", {"num6": -2}), ("num4", {"num4": "1"})]
)
def test_a_number_of_addresses_is_a_number(calico: Client, count: str, options: dict[str, Any]) -> None:
    with pytest.raises(BadData, match=f"auto_assign: {count} = .*: it must be a number of addresses, 0 or more"):
        calico.ipam.auto_assign(host=HOST, **options)


def test_one_address_or_range_may_stand_for_several(calico: Client) -> None:
    assigned, _ = calico.ipam.auto_assign(2, host=HOST, handle="h", pools4="172.29.0.0/16")
    assert assigned is not None
    first, second = (address.partition("/")[0] for address in assigned.addresses)
    assert calico.ipam.release_ips(first).done == (first,)
    assert calico.ipam.release_ips(Release(second, "h")).done == (second,)


def test_an_operation_may_be_told_its_host(calico: Client) -> None:
    calico.ipam.assign_ip("172.29.0.9", "h", host=HOST)
    assert calico.ipam.ips_by_handle("h") == ("172.29.0.9",)
    calico.ipam.release_by_handle("h", host=HOST)
    assert calico.ipam.release_ips("172.29.0.9").unallocated == ("172.29.0.9",)


def test_an_object_needs_a_kind_that_is_there(calico: Client) -> None:
    for call in (calico.apply, calico.create, calico.update, calico.replace):
        with pytest.raises(BadData, match="an object needs its kind: add 'kind', one of BGPConfiguration, "):
            call({"metadata": {"name": "a"}})
        with pytest.raises(BadData, match="there is no kind 'networkset': write 'NetworkSet'"):
            call({**POOL, "kind": "networkset"})
        with pytest.raises(BadData, match=r"there is no kind \['NetworkSet'\]: the kinds are"):
            call({**POOL, "kind": ["NetworkSet"]})


def test_one_object_of_a_namespaced_kind_needs_its_namespace(calico: Client) -> None:
    for operation in ("get", "delete"):
        with pytest.raises(BadData, match=rf"{operation}\('NetworkSet', 'a', namespace='default'\)"):
            getattr(calico, operation)("NetworkSet", "a")
    assert calico.list("NetworkSet") == []


class Away(MemoryDatastore):
    """A datastore that cannot be reached; each try costs ten seconds in real life."""

    tries = 0

    async def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        self.tries += 1
        raise Unreachable("cannot reach etcd")

    async def txn(self, *_operations: object) -> TxnResult:
        self.tries += 1
        raise Unreachable("cannot reach etcd")


def test_a_datastore_that_is_away_is_waited_for_once() -> None:
    datastore = Away()
    with Client(datastore=datastore) as client:
        node = {"kind": "Node", "metadata": {"name": HOST}}
        calls: list[Callable[[], object]] = [client.ensure_initialized, lambda: client.create(node)]
        for call in calls:
            datastore.tries = 0
            with pytest.raises(Unreachable):
                call()
            assert datastore.tries == 1


def test_a_namespace_that_nobody_would_look_into_is_refused(calico: Client) -> None:
    policy = {"kind": "NetworkPolicy", "metadata": {"name": "web", "namespace": "a/b"}, "spec": {}}
    with pytest.raises(CalicoError, match=r"Metadata.Namespace = 'a/b' \(a namespace cannot contain '/'"):
        calico.create(policy)
    assert calico.list("NetworkPolicy") == []
