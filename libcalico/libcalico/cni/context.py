"""What ADD, DEL and the rest of a call work with, made in the order of spec/cni.md 4: node, namespace, datastore."""

from __future__ import annotations

import asyncio
import os
import socket
from functools import partial
from typing import NamedTuple

from libcalico.client.objects import AsyncClient
from libcalico.cni import errors, labels, versions
from libcalico.cni.conf import NetConf
from libcalico.cni.errors import CniError, shown
from libcalico.cni.labels import MesosLabels
from libcalico.cni.plugins import OWN_PLUGIN, PluginIpam
from libcalico.cni.request import Call, parse_arguments
from libcalico.conventions import NODENAME_FILE
from libcalico.errors import CalicoError, DatastoreError
from libcalico.workload.host import EtcdMembers, Host
from libcalico.workload.host_files import read_nodename
from libcalico.workload.names import legal_namespace
from libcalico.workload.ready import TIMEOUT_S, check_ready
from libcalico.workload.request import DEFAULT_NAMESPACE, Attachment, Identity
from libcalico.workload.work import CALL_TIMEOUT_S, Work


class Context(NamedTuple):
    """One call under way. `other` is the IPAM plug-in of the configuration if that is not Calico's own."""

    call: Call
    conf: NetConf
    arguments: dict[str, str]
    labels: MesosLabels
    work: Work
    other: PluginIpam | None


async def open_context(call: Call, conf: NetConf, host: Host, notes: list[str]) -> Context:
    """Node name, namespace, datastore; the datastore must be ready. Every step has a deadline.

    The attachment says who and where, which is all that a DEL needs."""
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
    namespace = arguments.get("CNI_TEST_NAMESPACE") or legal_namespace(found.namespace) or DEFAULT_NAMESPACE
    if found.namespace and not legal_namespace(found.namespace):
        raise CniError(errors.GENERAL, f"label {labels.NAMESPACE} = {shown(found.namespace)} cannot name a namespace")
    client = await _connect(conf, host)
    if call.program == "calico" and not host.datastore_ready():
        await check_ready(client, empty_will_do=call.command == "DEL")
    identity = Identity(node_name(conf, host, notes), namespace, call.container_id, call.interface)
    attachment = Attachment(identity, call.network, call.netns)
    ipam = host.open_ipam(client, identity.node)
    work = Work(attachment, host, client, ipam, notes, node_names=partial(node_names, conf, host))
    return Context(call, conf, arguments, found, work, _other_ipam(call, conf, notes))


def _other_ipam(call: Call, conf: NetConf, notes: list[str]) -> PluginIpam | None:
    name = conf.ipam_type
    is_own = name == OWN_PLUGIN or (call.command in {"DEL", "GC"} and not name)
    return None if is_own else PluginIpam(name, call, notes, CALL_TIMEOUT_S)


def _conventional_labels(call: Call, conf: NetConf, notes: list[str]) -> tuple[tuple[str, str], ...]:
    """`args.cni.labels`, which upstream ignores: read from version 1.0.0 on, so that older configurations keep their
    meaning (docs/adr/0023)."""
    if conf.cni_labels and not versions.at_least(call.version, "1.0.0"):
        notes.append(f"args.cni.labels is read from cniVersion 1.0.0 on, not with {call.version}: no label is stored")
        return ()
    return conf.cni_labels


async def _connect(conf: NetConf, host: Host) -> AsyncClient:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await host.connect(EtcdMembers(conf.etcd, conf.etcd_problem))
    except TimeoutError:
        raise CniError(
            errors.TRY_AGAIN, f"error creating calico client: no answer in {TIMEOUT_S:.0f} s: try again later"
        ) from None
    except DatastoreError as error:
        raise CniError(errors.TRY_AGAIN, f"error creating calico client: {error}") from error
    except CalicoError as error:
        raise CniError(errors.GENERAL, f"error creating calico client: {error}") from error


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
    name = read_nodename(conf.nodename_file)
    if name:
        return name
    if conf.hostname:
        notes.append("conf member hostname is deprecated: use nodename")
        return conf.hostname
    return host.own_node or socket.gethostname().strip().lower()


def node_names(conf: NetConf, host: Host) -> list[str]:
    """Every name that this node may have had, the likeliest first. (DC/OS names nodes by their address.)"""
    names = [conf.nodename, read_nodename(conf.nodename_file), conf.hostname, host.own_node]
    return list(dict.fromkeys(name for name in (*names, socket.gethostname().strip().lower()) if name))
