"""ADD: refuse what can be refused, attach, answer with a result (spec/cni.md 4, 5)."""

from __future__ import annotations

from libcalico.cni import errors, result
from libcalico.cni.attachment import whole_attachment
from libcalico.cni.conf import NetConf, read_conf
from libcalico.cni.context import Context, open_context
from libcalico.cni.errors import CniError
from libcalico.cni.plugins import OWN_PLUGIN, find_plugin
from libcalico.cni.request import Call
from libcalico.cni.result import Addresses, Interfaces
from libcalico.workload import lifecycle, making
from libcalico.workload.host import Host
from libcalico.workload.host_files import read_mtu
from libcalico.workload.request import Attached

_TRUE = frozenset({"1", "true"})


async def add(call: Call, host: Host, notes: list[str]) -> bytes:
    """The result of an ADD."""
    conf, _ = read_conf(call.conf)
    _refuse_unsupported(call, conf, notes)
    mtu = conf.mtu or read_mtu(conf.require_mtu_file)
    if conf.readiness_gates:
        from libcalico.cni import readiness_gates

        readiness_gates.check_urls(conf.readiness_gates)
    context = await open_context(call, conf, host, notes)
    if conf.readiness_gates:
        await readiness_gates.wait_ready(conf.readiness_gates)
    refuse_own_namespace(call, host)
    work = context.work
    work.attachment = whole_attachment(context, mtu)
    making.check(work)
    attached = await work.alone(lambda: lifecycle.attach(work, context.other), ends_with_caller=True)
    return _render(context, attached)


def _refuse_unsupported(call: Call, conf: NetConf, notes: list[str]) -> None:
    if conf.ip_addrs_no_ipam:
        raise CniError(errors.GENERAL, "requested feature is not supported for this runtime: ip_addrs_no_ipam")
    if conf.dataplane_type:
        raise CniError(errors.GENERAL, f"invalid dataplane type: {conf.dataplane_type}")
    if conf.device_type not in {"", "veth", "netkit"}:
        text = f'unknown device_type "{conf.device_type}" in CNI config (supported: "veth", "netkit")'
        raise CniError(errors.GENERAL, text)
    if conf.device_type == "netkit":
        notes.append("device_type netkit is not supported: a veth pair is made")
    if conf.etcd["etcd_authority"]:
        notes.append("conf member etcd_authority is deprecated: use etcd_endpoints")
    if conf.ipam_type != OWN_PLUGIN:
        find_plugin(conf.ipam_type, call.path)


def refuse_own_namespace(call: Call, host: Host) -> None:
    """The host's own network namespace is no container's, unless the caller insists."""
    if host.attacher.is_host(call.netns) and call.environment.get("CNI_NETNS_OVERRIDE", "").lower() not in _TRUE:
        raise CniError(errors.OWN_NAMESPACE, "plugin's netns and netns from CNI_NETNS should not be the same")


def _render(context: Context, attached: Attached) -> bytes:
    """Routes and DNS of another IPAM plug-in pass through, the configuration's DNS goes before."""
    call = context.call
    given = context.other.answer if context.other is not None and attached.is_new else Addresses(())
    found = Addresses(attached.cidrs, given.routes, context.conf.dns or given.dns)
    mtu = context.work.attachment.device.mtu
    interfaces = Interfaces(attached.host_interface, call.interface, attached.mac, call.netns, mtu)
    return result.render_result(call.conf.get("cniVersion") or "", found, interfaces)
