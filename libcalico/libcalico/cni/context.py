"""What ADD, DEL and the rest of a call work with, made in the order of spec/cni.md 4."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from libcalico.client.objects import AsyncClient
from libcalico.cni import errors, labels, versions
from libcalico.cni.conf import NetConf
from libcalico.cni.errors import CniError, NotReady, shown
from libcalico.cni.labels import MesosLabels
from libcalico.cni.request import Call, parse_arguments
from libcalico.conventions import MTU_FILE, NODENAME_FILE
from libcalico.errors import CalicoError, DatastoreError, ResourceDoesNotExist
from libcalico.ipam.service import IpamService
from libcalico.model.keys import ROOT
from libcalico.model.resources import ClusterInformation
from libcalico.workload import endpoint
from libcalico.workload.errors import CallerGone
from libcalico.workload.host import EtcdMembers, Host

T = TypeVar("T")

CONNECT_TIMEOUT_S = 15.0
"""More than the datastore goes on connecting: its own error, which names the address, comes first."""
CALL_TIMEOUT_S = 60.0
"""Then a call goes no further; the step that it is at, and the undo of an ADD, may take 30 s more."""
DEFAULT_NAMESPACE = "default"
MOST_READ = 4096
"""Bytes of a file that holds a name or a number."""
MOST_DIGITS = 9


@dataclass
class Context:
    """One call under way. `notes` go to stderr, line by line."""

    call: Call
    conf: NetConf
    arguments: dict[str, str]
    labels: MesosLabels
    node: str
    namespace: str
    client: AsyncClient
    ipam: IpamService
    host: Host
    notes: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the caller has gone: nobody will hear the answer."""

    def check_wanted(self) -> None:
        """`CallerGone` when the caller has gone."""
        if self.gone.is_set():
            raise CallerGone

    async def is_held(self, host_interface: str) -> bool:
        """Another endpoint of this node has a host end of this name."""
        own = endpoint.endpoint_key(self.node, self.namespace, self.call.container_id, self.call.interface)
        known = self.host.is_held(host_interface, own)
        if known is not None:
            return known
        return await endpoint.is_name_held(self.client, self.node, self.call.container_id, host_interface, own)

    async def unless_gone(self, wait: Coroutine[Any, Any, T]) -> T:
        """The outcome of something that may be broken off, and is when the caller goes (`CallerGone`)."""
        task, gone = asyncio.ensure_future(wait), asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            self.check_wanted()
        return task.result()

    @property
    def handle(self) -> str:
        """The IPAM handle of the attachment: network and container."""
        return f"{self.call.network}.{self.call.container_id}"


async def alone(
    call: Call, host: Host, work: Callable[[], Coroutine[Any, Any, T]], on_gone: Callable[[], object] = lambda: None
) -> T:
    """Do a call's work alone at its container (at its addresses, when it is one of `calico-ipam`, for which one of
    `calico` may be waiting)."""
    netns = call.netns if call.program == "calico" else ""
    return await host.locks.one_at_a_time(f"{call.program} {call.container_id}", netns, work, on_gone)


async def open_context(call: Call, conf: NetConf, host: Host, notes: list[str]) -> Context:
    """Node name, namespace, datastore; the datastore must be ready. Every step has a deadline."""
    lenient = call.command in {"DEL", "GC"}
    if call.program == "calico" and call.command != "DEL":
        check_nodename_file(conf, call.command != "ADD", host)
    try:
        arguments = parse_arguments(call.arguments)
    except CniError as error:
        if not lenient:
            raise
        notes.append(f"{error.message}: CNI_ARGS ignored")
        arguments = {}
    found = labels.read((*_conventional_labels(call, conf, notes), *conf.labels))
    notes += found.notes
    if found.problems and not lenient:
        raise CniError(errors.GENERAL, found.problems[0])
    namespace = arguments.get("CNI_TEST_NAMESPACE") or endpoint.legal_namespace(found.namespace) or DEFAULT_NAMESPACE
    if found.namespace and not endpoint.legal_namespace(found.namespace):
        raise CniError(errors.GENERAL, f"label {labels.NAMESPACE} = {shown(found.namespace)} cannot name a namespace")
    client = await _connect(conf, host)
    if call.program == "calico" and not host.datastore_ready():
        await check_ready(client, empty_will_do=call.command == "DEL")
    node = node_name(conf, host, notes)
    return Context(call, conf, arguments, found, node, namespace, client, host.open_ipam(client, node), host, notes)


def _conventional_labels(call: Call, conf: NetConf, notes: list[str]) -> tuple[tuple[str, str], ...]:
    """`args.cni.labels`, which upstream ignores: read from version 1.0.0 on, so that older configurations keep their
    meaning (docs/adr/0023)."""
    if conf.cni_labels and not versions.at_least(call.version, "1.0.0"):
        notes.append(f"args.cni.labels is read from cniVersion 1.0.0 on, not with {call.version}: no label is stored")
        return ()
    return conf.cni_labels


async def _connect(conf: NetConf, host: Host) -> AsyncClient:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await host.connect(EtcdMembers(conf.etcd, conf.etcd_problem))
    except TimeoutError:
        raise CniError(
            errors.TRY_AGAIN, f"error creating calico client: no answer in {CONNECT_TIMEOUT_S:.0f} s: try again later"
        ) from None
    except DatastoreError as error:
        raise CniError(errors.TRY_AGAIN, f"error creating calico client: {error}") from error
    except CalicoError as error:
        raise CniError(errors.GENERAL, f"error creating calico client: {error}") from error


async def check_ready(
    client: AsyncClient, timeout_s: float = CONNECT_TIMEOUT_S, *, empty_will_do: bool = False
) -> None:
    """`CniError` unless the cluster's datastore says that it is ready (one that says nothing is).

    `empty_will_do`: so is one that holds nothing at all; nothing of a container has to be removed from there."""
    try:
        async with asyncio.timeout(timeout_s):
            try:
                cluster = await client.get(ClusterInformation, "default")
            except ResourceDoesNotExist:
                if empty_will_do and not (await client.datastore.range(ROOT.encode(), limit=1, keys_only=True)).kvs:
                    return
                raise
    except TimeoutError:
        text = f"error getting ClusterInformation: no answer in {timeout_s:.0f} s: try again later"
        raise CniError(errors.TRY_AGAIN, text) from None
    except CalicoError as error:
        code = errors.TRY_AGAIN if isinstance(error, DatastoreError) else errors.GENERAL
        raise CniError(code, f"error getting ClusterInformation: {error}") from error
    if cluster.spec.datastore_ready is False:
        raise NotReady


def check_nodename_file(conf: NetConf, name_is_enough: bool, host: Host) -> None:
    """The node agent must have written its name, unless the configuration says that it need not."""
    if conf.nodename_file_optional or os.path.exists(conf.nodename_file):
        return
    if name_is_enough and (conf.nodename or conf.hostname or host.own_node):
        return
    directory = os.path.dirname(NODENAME_FILE)
    raise CniError(
        errors.GENERAL,
        f"stat {conf.nodename_file}: no such file or directory: check that the calico/node container is running"
        f" and has mounted {directory}/",
    )


def node_name(conf: NetConf, host: Host, notes: list[str]) -> str:
    """The name of this node: configuration, file, the configuration's old member, agent, host name."""
    if conf.nodename:
        return conf.nodename
    name = _read_text(conf.nodename_file)
    if name:
        return name
    if conf.hostname:
        notes.append("conf member hostname is deprecated: use nodename")
        return conf.hostname
    return host.own_node or socket.gethostname().strip().lower()


def node_names(conf: NetConf, host: Host) -> list[str]:
    """Every name that this node may have had, the likeliest first. (DC/OS names nodes by their address.)"""
    names = [conf.nodename, _read_text(conf.nodename_file), conf.hostname, host.own_node]
    return list(dict.fromkeys(name for name in (*names, socket.gethostname().strip().lower()) if name))


def read_mtu(conf: NetConf) -> int:
    """The MTU of the configuration, else of the agent's file, else 0."""
    if conf.mtu:
        return conf.mtu
    try:
        text = _read_start(MTU_FILE).strip()
    except FileNotFoundError:
        if conf.require_mtu_file:
            text = f"failed to read MTU file: open {MTU_FILE}: no such file or directory"
            raise CniError(errors.GENERAL, text) from None
        return 0
    except (OSError, UnicodeDecodeError) as error:
        raise CniError(errors.GENERAL, f"failed to read MTU file: {error}") from error
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise CniError(errors.GENERAL, f"failed to read MTU file: {MTU_FILE} holds {text[:20]!r}, wanted a number")
    return int(text)


def _read_text(path: str) -> str:
    try:
        return _read_start(path, "replace").strip()
    except (OSError, ValueError):  # the latter for a path that no file can have
        return ""


def _read_start(path: str, undecodable: str = "strict") -> str:
    """The first bytes of a file. A pipe or a device in its place ends at once: we are on the agent's event loop."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(number, MOST_READ).decode("utf-8", undecodable)
    finally:
        os.close(number)
