"""ADD: address, wiring, profile, endpoint, policy in the kernel, result; or an error, and nothing left behind."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

import msgspec

from libcalico.cni import addresses, errors, names, result
from libcalico.cni.conf import NetConf, read_conf
from libcalico.cni.context import Context, alone, open_context, read_mtu
from libcalico.cni.delete import remove_under_former_name
from libcalico.cni.errors import CniError
from libcalico.cni.request import Call
from libcalico.cni.result import Addresses, Interfaces
from libcalico.errors import (
    CalicoError,
    DatastoreError,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    Unreachable,
    ValidationError,
)
from libcalico.ipam.transaction import View
from libcalico.kernel import objects
from libcalico.kernel.errors import KernelError
from libcalico.model.keys import ResourceKey
from libcalico.model.resources import WorkloadEndpoint
from libcalico.workload import endpoint, plan
from libcalico.workload.attach import Inspection, leads_elsewhere
from libcalico.workload.endpoint import NewEndpoint
from libcalico.workload.host import Host

POLICY_TIMEOUT_S = 2.0
_TRUE = frozenset({"1", "true"})
_log = logging.getLogger(__name__)


async def add(call: Call, host: Host, notes: list[str]) -> bytes:
    """The result of an ADD."""
    conf, _ = read_conf(call.conf)
    _refuse_unsupported(call, conf, notes)
    mtu = read_mtu(conf)
    if conf.readiness_gates:
        from libcalico.cni import readiness_gates

        readiness_gates.check_urls(conf.readiness_gates)
    context = await open_context(call, conf, host, notes)
    if conf.readiness_gates:
        await readiness_gates.wait_ready(conf.readiness_gates)
    _refuse_impossible(context, mtu)
    return await alone(call, host, _Addition(context, mtu).run, context.gone.set)


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
    if conf.ipam_type != addresses.OWN_PLUGIN:
        addresses.find_plugin(conf.ipam_type, call.path)


def _refuse_impossible(context: Context, mtu: int) -> None:
    """Everything that can be refused is refused before the first effect."""
    call = context.call
    attacher = context.host.attacher
    if attacher.is_host(call.netns) and call.environment.get("CNI_NETNS_OVERRIDE", "").lower() not in _TRUE:
        text = "plugin's netns and netns from CNI_NETNS should not be the same"
        raise CniError(errors.OWN_NAMESPACE, text)
    try:
        attacher.check_netns(call.netns)
    except KernelError as error:
        raise CniError(errors.GENERAL, f'failed to open netns "{call.netns}": {error}') from error
    addresses.wanted_addresses(context)
    conf = context.conf
    problem = plan.mtu_problem(mtu, conf.want_v6) or plan.mac_problem(_wanted_mac(context))
    problem = problem or plan.queues_problem(conf.num_queues)
    if problem:
        raise CniError(errors.GENERAL, problem)
    _refuse_names(context)


def _refuse_names(context: Context) -> None:
    """The container id and the network's name become part of names in the datastore, which have rules."""
    call = context.call
    try:
        endpoint.check_endpoint(_endpoint(context, ["192.0.2.1"], plan.host_interface_name(call.container_id), ""))
        if not context.conf.policy_type:
            endpoint.check_profile(call.network)
    except ValidationError as error:
        raise names.explain(error, call.container_id, call.network) from error


def _wanted_mac(context: Context) -> str:
    return (context.arguments.get("MAC") or context.conf.mac).lower()


def _endpoint(context: Context, ips: Sequence[str], host_interface: str, mac: str) -> WorkloadEndpoint:
    call = context.call
    return endpoint.build_endpoint(
        context.node,
        context.namespace,
        call.container_id,
        call.interface,
        call.network,
        context.labels.labels,
        ips,
        host_interface,
        mac,
    )


class _Addition:
    """One ADD that may begin to have effects."""

    def __init__(self, context: Context, mtu: int) -> None:
        self._context = context
        self._mtu = mtu
        self._owner = f"{context.call.container_id}/{context.call.interface}"

    async def run(self) -> bytes:
        usual = plan.host_interface_name(self._context.call.container_id)
        try:
            if self._context.host.is_unused(usual) and self._is_simple():
                return await self._run_at_once(usual)
        except ResourceAlreadyExists:
            pass  # stored before: the long way tells what it is
        return await self._run_by_steps()

    # --- the usual case: nothing of this container is known

    def _is_simple(self) -> bool:
        context = self._context
        conf = context.conf
        chooses = conf.ipam_type == addresses.OWN_PLUGIN and not addresses.wanted_addresses(context)
        return chooses and conf.want_v4 != conf.want_v6 and "." not in context.call.container_id

    async def _run_at_once(self, host_interface: str) -> bytes:
        """Addresses and endpoint in one transaction; the agent programs its policy while the interface is made."""
        with self._reserved(host_interface) as is_ours:
            if not is_ours:
                return await self._run_by_steps()
            async with AsyncExitStack() as undo:
                await self._ensure_profile()
                found, stored = await self._store(undo, host_interface)
                await self._wire(undo, host_interface, endpoint.bare_addresses(stored), stored.spec.mac)
                await self._finish(stored)
                undo.pop_all()
        return self._render(found, stored)

    async def _store(self, undo: AsyncExitStack, host_interface: str) -> tuple[Addresses, WorkloadEndpoint]:
        """When etcd's answer is lost, what it may have stored is taken back."""
        context = self._context
        mac = _wanted_mac(context) or plan.random_mac()
        written: list[NewEndpoint] = []
        views: list[View] = []

        def beside(view: View, cidrs: Sequence[str]) -> None:
            ips = [cidr.partition("/")[0] for cidr in cidrs]
            new = endpoint.new_endpoint(_endpoint(context, ips, host_interface, mac), context.client.clock.now())
            view.create(new.path, new.value)
            written[:] = [new]
            views[:] = [view]

        try:
            found = await addresses.assign(context, beside)
        except DatastoreError as error:
            if written and not isinstance(error, Unreachable):
                self._push(undo, "take back what may have been stored", lambda: self._take_back(written[0], 0))
            raise
        _check_some(found)
        new, revision = written[0], views[0].revision
        self._undo(undo, "take the endpoint back", lambda: self._take_back(new, revision))
        return found, new.at(revision)

    async def _take_back(self, new: NewEndpoint, revision: int) -> None:
        """Endpoint and addresses, if the endpoint is still the one of this revision (0: the one of our making)."""
        revision = revision or await endpoint.revision_of(self._context.client, new)
        if not revision:
            return
        await self._context.ipam.release_held(
            [self._context.handle],
            only=endpoint.bare_addresses(new.endpoint),
            beside=lambda view: view.drop(new.path, revision),
        )

    @contextmanager
    def _reserved(self, host_interface: str) -> Iterator[bool]:
        """The name of the host end is ours meanwhile; False when another call has it."""
        locks = self._context.host.locks
        try:
            yield locks.reserve(host_interface, self._owner)
        finally:
            locks.unreserve(host_interface, self._owner)

    # --- otherwise

    async def _run_by_steps(self) -> bytes:
        context = self._context
        own, _ = await endpoint.find_related(context.client, context.namespace, context.node, context.call.container_id)
        segment = endpoint.endpoint_segment(context.call.interface)
        existing = next((item for item in own if item.spec.endpoint == segment), None)
        if existing is None:
            await remove_under_former_name(context)
        usual = plan.host_interface_name(context.call.container_id)
        with self._reserved(usual) as is_ours:  # the name is kept until all is undone
            async with AsyncExitStack() as undo:
                if existing is None:
                    name = await self._choose_name(usual if is_ours else "", bool(own))
                    answer = await self._create(undo, name)
                else:
                    answer = await self._renew(undo, existing)
                undo.pop_all()
        return answer

    # --- a new endpoint

    async def _create(self, undo: AsyncExitStack, host_interface: str) -> bytes:
        context = self._context
        found = await self._assign(undo)
        ips = [cidr.partition("/")[0] for cidr in found.cidrs]
        mac = await self._wire(undo, host_interface, ips, _wanted_mac(context))
        await self._ensure_profile()
        wanted = _endpoint(context, ips, host_interface, mac)
        try:
            stored = await endpoint.create_endpoint(context.client, wanted)
        except Unreachable:  # nothing was sent
            raise
        except DatastoreError:  # it may have been stored all the same
            self._push(undo, "delete the endpoint", lambda: endpoint.delete_endpoint(context.client, wanted))
            raise
        self._undo(undo, "delete the endpoint", lambda: endpoint.delete_endpoint(context.client, stored))
        await self._finish(stored)
        cidrs = tuple(stored.spec.ip_networks)
        return self._render(found._replace(cidrs=cidrs), stored)

    async def _choose_name(self, usual: str, is_further: bool) -> str:
        """The usual name of the host end, or the hashed one when that could be another's."""
        call = self._context.call
        if usual and not is_further and "." not in call.container_id and not await self._context.is_held(usual):
            seen = await self._context.host.attacher.inspect(call.netns, call.interface, usual)
            far = seen.container.link if seen.container is not None else None
            if seen.host is None or not leads_elsewhere(seen.host.link, far):
                return usual
        return plan.hashed_interface_name(call.container_id, call.interface)

    async def _assign(self, undo: AsyncExitStack) -> Addresses:
        context = self._context
        if context.conf.ipam_type == addresses.OWN_PLUGIN:
            found = await addresses.assign(context)
            bare = [cidr.partition("/")[0] for cidr in found.cidrs]
            self._undo(undo, "release the addresses", lambda: addresses.give_back(context, bare))
        else:
            undone = "release the addresses"
            try:
                found = await context.unless_gone(addresses.run_plugin(context, "ADD"))
            except (CalicoError, TimeoutError):
                if context.gone.is_set():  # it may have assigned some
                    self._push(undo, undone, lambda: addresses.run_plugin(context, "DEL"))
                raise
            self._undo(undo, undone, lambda: addresses.run_plugin(context, "DEL"))
        _check_some(found)
        return found

    async def _wire(self, undo: AsyncExitStack, host_interface: str, ips: Sequence[str], mac: str) -> str:
        call, attacher = self._context.call, self._context.host.attacher
        await self._context.host.protect(ips)
        made = await attacher.attach(self._wiring(host_interface, ips, mac), call.netns)
        self._undo(undo, "remove the interface", lambda: attacher.detach(call.netns, call.interface, [host_interface]))
        return made

    def _wiring(self, host_interface: str, ips: Sequence[str], mac: str) -> plan.Wiring:
        conf = self._context.conf
        return plan.plan_wiring(
            host_interface,
            self._context.call.interface,
            ips,
            mtu=self._mtu,
            queues=conf.num_queues,
            mac=mac,
            allow_ip_forwarding=conf.allow_ip_forwarding,
        )

    # --- an endpoint that is stored already

    async def _renew(self, undo: AsyncExitStack, existing: WorkloadEndpoint) -> bytes:
        """A repeated ADD, or a further network on the same interface: the endpoint as it is, made whole again."""
        context = self._context
        spec = existing.spec
        seen = await context.host.attacher.inspect(context.call.netns, context.call.interface, spec.interface_name)
        stands = seen.is_wired
        if seen.host is not None and not stands:
            raise CniError(errors.GENERAL, _why_taken(existing, seen, context.call))
        ips = endpoint.bare_addresses(existing)
        if not ips:
            ips = [cidr.partition("/")[0] for cidr in (await self._assign(undo)).cidrs]
        elif context.conf.ipam_type == addresses.OWN_PLUGIN:
            await self._claim(existing, ips)
        mac = seen.container.link.mac if stands and seen.container is not None else spec.mac
        if stands and not _is_complete(seen, ips):  # an agent was killed over it, say
            await context.host.attacher.complete(self._wiring(spec.interface_name, ips, mac), context.call.netns)
        elif not stands:
            mac = await self._wire(undo, spec.interface_name, ips, mac)
        cidrs = spec.ip_networks or [f"{ip}/{128 if ':' in ip else 32}" for ip in ips]
        changed = endpoint.with_network(existing, context.call.network)
        changed = msgspec.structs.replace(
            changed, spec=msgspec.structs.replace(changed.spec, ip_networks=cidrs, mac=mac)
        )
        await self._ensure_profile()
        stored = await endpoint.update_endpoint(context.client, changed) if changed != existing else existing
        await self._finish(stored)
        return self._render(Addresses(tuple(cidrs)), stored)

    async def _claim(self, existing: WorkloadEndpoint, ips: Sequence[str]) -> None:
        """The stored addresses are this container's in IPAM; free ones are taken again."""
        context = self._context
        container = context.call.container_id
        networks = (*existing.spec.profiles, context.call.network)
        handles = {container, *(f"{network}.{container}" for network in networks)}
        for ip in ips:
            try:
                attribute = await context.ipam.get_assignment_attributes(ip)
            except ResourceDoesNotExist as error:
                if "No valid IPPool" not in str(error):
                    note = addresses.attributes(context)
                    await context.ipam.assign_ip(ip, context.handle, note, context.node, "Workload")
                continue
            if attribute.handle not in handles:
                text = f"address {ip} of endpoint {existing.metadata.name} belongs to {attribute.handle}"
                raise CniError(errors.GENERAL, f"{text} now: delete this container's endpoint first")

    # --- both

    async def _ensure_profile(self) -> None:
        """Before the endpoint: then the endpoint's own revision has it all, and no endpoint lacks its profile."""
        context = self._context
        if not context.conf.policy_type and not context.host.has_profile(context.call.network):
            await endpoint.ensure_profile(context.client, context.call.network)

    async def _finish(self, stored: WorkloadEndpoint) -> None:
        """Policy programmed: only then may the container run."""
        context = self._context
        key = ResourceKey(endpoint.KIND, stored.metadata.name, stored.metadata.namespace)
        timeout_s = float(context.conf.policy_timeout_s) or POLICY_TIMEOUT_S
        try:
            programmed = context.host.wait_programmed(key, int(stored.metadata.resource_version), timeout_s)
            await context.unless_gone(programmed)
        except TimeoutError:
            text = f"policy of endpoint {stored.metadata.name} is not programmed after {timeout_s:g} s"
            raise CniError(errors.TRY_AGAIN, f"{text}: the endpoint was taken away again") from None

    def _render(self, found: Addresses, stored: WorkloadEndpoint) -> bytes:
        call = self._context.call
        interfaces = Interfaces(stored.spec.interface_name, call.interface, stored.spec.mac, call.netns, self._mtu)
        found = found._replace(dns=self._context.conf.dns or found.dns)
        return result.render_result(call.conf.get("cniVersion") or "", found, interfaces)

    def _undo(self, undo: AsyncExitStack, what: str, call: Callable[[], Awaitable[object]]) -> None:
        """How to undo what has just been done; no more is done for a caller that has gone."""
        self._push(undo, what, call)
        self._context.check_wanted()

    def _push(self, undo: AsyncExitStack, what: str, call: Callable[[], Awaitable[object]]) -> None:
        async def step() -> None:
            try:
                await call()
            except (CalicoError, TimeoutError) as error:
                _log.warning("undo of ADD %s: %s: %s", self._owner, what, error)
                self._context.notes.append(f"undo: {what}: {error}")

        undo.push_async_callback(step)


def _check_some(found: Addresses) -> None:
    if not found.cidrs:
        raise CniError(errors.GENERAL, "IPAM plugin returned no IP addresses in result")


def _why_taken(existing: WorkloadEndpoint, seen: Inspection, call: Call) -> str:
    """The endpoint's host interface stands, and its other end is not the interface of the call."""
    name, interface = existing.metadata.name, existing.spec.interface_name
    if seen.far_name and seen.far_name != call.interface:
        text = f"endpoint {name}: its interface has the name {seen.far_name} in {call.netns}, not {call.interface}"
        return f"{text}: rename it back, or call DEL first"
    text = f"endpoint {name} is in use by another network namespace: interface"
    return f"{text} {interface} stands and does not lead to this one"


def _is_complete(seen: Inspection, ips: Sequence[str]) -> bool:
    """All has been done to the two ends; host routes come last."""
    assert seen.host is not None and seen.container is not None
    up = seen.host.link.up and seen.container.link.up
    there = set(ips) <= set(seen.container.addresses) and set(map(objects.family_of, ips)) <= seen.families
    return up and there and set(ips) <= set(seen.routed)
