"""CHECK: what stands is what the last result said (spec/cni.md 8.1, 12).

`prevResult` is what the whole chain of plug-ins made: what a later one changed there (a MAC, an address more) is right.
Looked at is what is ours: the endpoint, both ends of the interface, their routes, the addresses in IPAM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from libcalico.cni import errors, result
from libcalico.cni.conf import Schema, check_types, read_conf
from libcalico.cni.context import open_context
from libcalico.cni.errors import CniError
from libcalico.cni.plugins import OWN_PLUGIN
from libcalico.cni.request import Call
from libcalico.errors import ResourceDoesNotExist
from libcalico.kernel import objects
from libcalico.model.resources import WorkloadEndpoint
from libcalico.net import bare_address
from libcalico.workload import endpoint, lookup
from libcalico.workload.attach import Inspection
from libcalico.workload.host import Host
from libcalico.workload.work import Work

_PREVIOUS: Schema = {
    "interfaces": [{"name": str, "mac": str, "sandbox": str}],
    "ips": [{"address": str, "interface": int}],
    "ip4": {"ip": str},
    "ip6": {"ip": str},
}


class Expected(NamedTuple):
    """What `prevResult` says of the container's interface; `mac` "" = nothing."""

    addresses: frozenset[str]
    mac: str


async def check(call: Call, host: Host, notes: list[str]) -> bytes:
    """CHECK of `calico`."""
    conf, _ = read_conf(call.conf)
    expected = _expected(call)
    context = await open_context(call, conf, host, notes)
    work = context.work
    stored = await _stored(work)
    ours = frozenset(endpoint.bare_addresses(stored))
    if not ours or not ours <= expected.addresses:
        text = f"endpoint {stored.metadata.name} has {stored.spec.ip_networks}"
        raise _mismatch(f"{text}, prevResult {sorted(expected.addresses)}")
    seen = await host.attacher.inspect(call.netns, call.interface, stored.spec.interface_name)
    _check_inside(call, stored, seen, expected)
    _check_outside(stored, seen, ours)
    if conf.ipam_type == OWN_PLUGIN:
        held = await held_addresses(work, stored.spec.profiles)
        _check_held(ours, held)
        if forgotten := (expected.addresses - ours) & held:
            raise _mismatch(f"endpoint {stored.metadata.name} lacks {sorted(forgotten)}, which the container holds")
    elif conf.ipam_type and context.other is not None:
        await context.other.run("CHECK")
    return b""


async def check_addresses(call: Call, host: Host, notes: list[str]) -> bytes:
    """CHECK of `calico-ipam`: with a previous result, the handle must hold its addresses."""
    conf, _ = read_conf(call.conf)
    previous = _previous(call)
    if previous is not None:
        context = await open_context(call, conf, host, notes)
        _check_held(frozenset(result.previous_addresses(previous)), await held_addresses(context.work, ()))
    return b""


def _previous(call: Call) -> dict[str, Any] | None:
    """`prevResult`, None when there is none."""
    previous = call.conf.get("prevResult")
    check_types(previous, _PREVIOUS, "prevResult")
    return previous if isinstance(previous, dict) else None


def _expected(call: Call) -> Expected:
    previous = _previous(call)
    if previous is None:
        raise CniError(errors.BAD_CONFIG, "required prevResult missing")
    interfaces = [one or {} for one in previous.get("interfaces") or ()]
    mine = [place for place, one in enumerate(interfaces) if one.get("name") == call.interface]
    others = set(range(len(interfaces))) - set(mine)
    found = [
        bare_address(entry.get("address") or "")
        for entry in previous.get("ips") or ()
        if entry and entry.get("interface") not in others
    ]
    macs = [interfaces[place].get("mac") or "" for place in mine]
    return Expected(frozenset(found), macs[0].lower() if macs else "")


async def _stored(work: Work) -> WorkloadEndpoint:
    mine, _ = await lookup.find_mine(work)
    if mine is not None:
        return mine
    identity = work.identity
    raise _mismatch(f"no endpoint of container {identity.workload} with interface {identity.interface} is stored")


def _check_inside(call: Call, stored: WorkloadEndpoint, seen: Inspection, expected: Expected) -> None:
    if seen.container is None:
        raise _mismatch(f"interface {call.interface} is missing in {call.netns}")
    link = seen.container.link
    if not link.up:
        raise _mismatch(f"interface {call.interface} is down in {call.netns}")
    if not expected.addresses <= set(seen.container.addresses):
        present, wanted = list(seen.container.addresses), sorted(expected.addresses)
        raise _mismatch(f"interface {call.interface} has {present}, wanted {wanted}")
    mac = expected.mac or stored.spec.mac.lower()
    if mac and link.mac != mac:
        raise _mismatch(f"interface {call.interface} has MAC {link.mac}, wanted {mac}")
    for family in set(map(objects.family_of, endpoint.bare_addresses(stored))) - seen.families:
        version = 6 if family == objects.family_of("::") else 4
        raise _mismatch(f"interface {call.interface} has no IPv{version} default route in {call.netns}")


def _check_outside(stored: WorkloadEndpoint, seen: Inspection, ours: frozenset[str]) -> None:
    name = stored.spec.interface_name
    if seen.host is None:
        raise _mismatch(f"host interface {name} is missing")
    if not seen.host.link.up:
        raise _mismatch(f"host interface {name} is down")
    if not seen.is_wired:
        raise _mismatch(f"host interface {name} does not lead to the container's interface")
    missing = ours - set(seen.routed)
    if missing:
        raise _mismatch(f"no host route to {sorted(missing)} through {name}")


async def held_addresses(work: Work, networks: Sequence[str]) -> frozenset[str]:
    """What the container holds in IPAM in the call's network and in these."""
    held: set[str] = set()
    for network in dict.fromkeys([work.attachment.network, *networks]):
        try:
            held |= set(await work.ipam.ips_by_handle(work.attachment.handle_in(network)))
        except ResourceDoesNotExist:
            continue
    return frozenset(held)


def _check_held(wanted: frozenset[str], held: frozenset[str]) -> None:
    if not wanted <= held:
        raise _mismatch(f"addresses {sorted(wanted - held)} are not allocated to the container")


def _mismatch(text: str) -> CniError:
    return CniError(errors.GENERAL, f"check failed: {text}")
