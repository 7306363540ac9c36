"""The parts of an attachment, each with its undo: what `lifecycle` and `renewal` are put together from."""

from __future__ import annotations

from collections.abc import Sequence

from libcalico.errors import CalicoError, ValidationError
from libcalico.kernel.errors import KernelError
from libcalico.model.keys import ResourceKey
from libcalico.model.resources import WorkloadEndpoint
from libcalico.net import bare_address
from libcalico.workload import addresses, endpoint, name_errors, plan
from libcalico.workload.addresses import OtherIpam
from libcalico.workload.errors import Refused, TryAgain
from libcalico.workload.names import KIND
from libcalico.workload.work import Undo, Work

_ANY_ADDRESS = "192.0.2.1"


def check(work: Work) -> None:
    """Everything that can be refused is refused before the first effect: `Refused`, or `ValidationError` for names
    that cannot be stored. Addresses that come later are checked with the wiring; the rest is of our making."""
    attachment = work.attachment
    try:
        work.host.attacher.check_netns(attachment.netns_path)
    except KernelError as error:
        raise Refused(f'failed to open netns "{attachment.netns_path}": {error}') from error
    check_device(work)
    check_names(work)


def check_device(work: Work) -> None:
    """`Refused` for an MTU, MAC or number of queues that no interface can have."""
    device, request = work.attachment.device, work.attachment.addresses
    problem = plan.mtu_problem(device.mtu, request.want_v6) or plan.mac_problem(device.mac)
    if problem := problem or plan.queues_problem(device.queues):
        raise Refused(problem)


def check_names(work: Work) -> None:
    """The workload's and the network's name become part of names in the datastore, which have rules."""
    attachment = work.attachment
    identity = attachment.identity
    wanted = endpoint.build_endpoint(attachment, identity.usual_interface, [_ANY_ADDRESS], "")
    try:
        endpoint.check_endpoint(wanted)
        if attachment.needs_profile:
            endpoint.check_profile(attachment.network)
    except ValidationError as error:
        raise name_errors.explain(error, identity.workload, attachment.network) from error
    work.checked = wanted


def make_endpoint(work: Work, host_interface: str, bare: Sequence[str], mac: str) -> WorkloadEndpoint:
    """The endpoint, ready to be stored. What is checked is checked once, with `check_names`: addresses and the host
    interface are of our making, or were checked with the wiring, and so was the MAC."""
    if work.checked is None:
        check_names(work)
    assert work.checked is not None
    return endpoint.completed(work.checked, host_interface, bare, mac)


async def assign(work: Work, undo: Undo, other: OtherIpam | None) -> tuple[str, ...]:
    """Addresses with their prefix lengths, at least one."""
    if other is None:
        found = await addresses.assign(work)
        bare = [bare_address(cidr) for cidr in found]
        undo.done("release the addresses", lambda: addresses.give_back(work, bare))
    else:
        undone = "release the addresses"
        try:
            found = await work.unless_gone(other.assign())
        except (CalicoError, TimeoutError):
            if work.gone.is_set():  # it may have assigned some
                undo.unsure(undone, other.release)
            raise
        undo.done(undone, other.release)
    check_some(found)
    return found


def check_some(cidrs: Sequence[str]) -> None:
    """`Refused` when there is no address."""
    if not cidrs:
        raise Refused("IPAM plugin returned no IP addresses in result")


async def wire_container(work: Work, undo: Undo, host_interface: str, bare: Sequence[str], mac: str) -> str:
    """The veth pair with its inner end in the container; returns that end's MAC."""
    attacher, path, interface = work.host.attacher, work.attachment.netns_path, work.identity.interface
    await work.host.protect(bare)
    made = await attacher.attach(wiring(work, host_interface, bare, mac), path)
    undo.done("remove the interface", lambda: attacher.detach(path, interface, [host_interface]))
    return made


def wiring(work: Work, host_interface: str, bare: Sequence[str], mac: str, interface: str = "") -> plan.Wiring:
    """What the attachment's interface means for the kernel; `interface`: the inner end's name, "" = the container's."""
    device = work.attachment.device
    return plan.plan_wiring(
        host_interface,
        interface or work.identity.interface,
        bare,
        mtu=device.mtu,
        queues=device.queues,
        mac=mac,
        allow_ip_forwarding=device.allow_ip_forwarding,
    )


async def ensure_profile(work: Work) -> None:
    """Before the endpoint: then the endpoint's own revision has it all, and no endpoint lacks its profile."""
    attachment = work.attachment
    if attachment.needs_profile and not work.host.has_profile(attachment.network):
        await endpoint.ensure_profile(work.client, attachment.network)


async def wait_programmed(
    work: Work, stored: WorkloadEndpoint, otherwise: str = "the endpoint was taken away again"
) -> None:
    """Until the kernel enforces the endpoint's policy: only then may the container run. `otherwise`: what is done when
    that takes too long (`TryAgain`)."""
    timeout_s = work.attachment.policy_timeout_s
    try:
        key = ResourceKey(KIND, stored.metadata.name, stored.metadata.namespace)
        revision = int(stored.metadata.resource_version)
        await work.unless_gone(work.host.wait_programmed(key, revision, timeout_s))
    except TimeoutError:
        text = f"policy of endpoint {stored.metadata.name} is not programmed after {timeout_s:g} s"
        raise TryAgain(f"{text}: {otherwise}") from None
