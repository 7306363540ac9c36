"""The program `calico-ipam`: addresses alone, for other plug-ins that call it (spec/cni.md 7)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from libcalico.cni import result
from libcalico.cni.attachment import address_request
from libcalico.cni.conf import read_conf
from libcalico.cni.context import open_context
from libcalico.cni.request import Call
from libcalico.cni.result import Addresses
from libcalico.net import bare_address
from libcalico.workload import addresses
from libcalico.workload.errors import CallerGone
from libcalico.workload.host import Host
from libcalico.workload.work import Work

T = TypeVar("T")


async def add_addresses(call: Call, host: Host, notes: list[str]) -> bytes:
    """ADD: addresses under the attachment's handle."""
    conf, _ = read_conf(call.conf)
    context = await open_context(call, conf, host, notes)
    work = context.work
    work.attachment = work.attachment._replace(addresses=address_request(context))
    found = await alone(work, lambda: _assign(work), work.gone.set)
    return result.render_result(call.conf.get("cniVersion") or "", Addresses(found))


async def _assign(work: Work) -> tuple[str, ...]:
    found = await addresses.assign(work)
    try:
        work.check_wanted()
    except CallerGone:
        await addresses.give_back(work, [bare_address(cidr) for cidr in found])
        raise
    return found


async def delete_addresses(call: Call, host: Host, notes: list[str]) -> bytes:
    """DEL: everything under the attachment's handle goes back."""
    conf, passed_over = read_conf(call.conf, lenient=True)
    notes += passed_over
    work = (await open_context(call, conf, host, notes)).work
    await alone(work, lambda: addresses.release(work, [call.network]))
    return b""


async def alone(
    work: Work, step: Callable[[], Coroutine[Any, Any, T]], on_gone: Callable[[], object] = lambda: None
) -> T:
    """Do it alone at the container's addresses, for which a call of `calico`, alone at the container, may wait."""
    return await work.host.locks.one_at_a_time(f"calico-ipam {work.identity.workload}", "", step, on_gone)
