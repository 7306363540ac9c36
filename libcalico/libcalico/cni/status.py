"""STATUS: an ADD could succeed now (spec/cni.md 8)."""

from __future__ import annotations

import asyncio

from libcalico.cni import errors
from libcalico.cni.conf import read_conf
from libcalico.cni.context import open_context
from libcalico.cni.errors import CniError
from libcalico.cni.plugins import OWN_PLUGIN
from libcalico.cni.request import Call
from libcalico.errors import CalicoError, ResourceDoesNotExist
from libcalico.ipam import plan as ipam_plan
from libcalico.model.resources import IPPool, Node
from libcalico.workload.host import Host
from libcalico.workload.work import Work

STATUS_TIMEOUT_S = 2.0


async def status(call: Call, host: Host, notes: list[str]) -> bytes:
    """STATUS: an ADD could succeed now."""
    conf, _ = read_conf(call.conf)
    try:
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            context = await open_context(call, conf, host, notes)
            if OWN_PLUGIN in {conf.ipam_type, call.program}:
                await _check_pools(context.work)
            elif conf.ipam_type and context.other is not None:
                await context.other.run("STATUS")
    except TimeoutError:
        text = f"the datastore did not answer in {STATUS_TIMEOUT_S:.0f} s"
        raise CniError(errors.NOT_AVAILABLE, "plugin not available", text) from None
    except CalicoError as error:
        raise CniError(errors.NOT_AVAILABLE, "plugin not available", str(error)) from error
    return b""


async def _check_pools(work: Work) -> None:
    try:
        labels = (await work.client.get(Node, work.identity.node)).metadata.labels
    except ResourceDoesNotExist:
        labels = {}
    for pool in (await work.client.list(IPPool)).items:
        uses = pool.spec.allowed_uses or ["Workload"]
        if not pool.spec.disabled and "Workload" in uses and ipam_plan.selects(pool.spec.node_selector, labels):
            return
    raise CniError(errors.NOT_AVAILABLE, f"no enabled IP pool is meant for node {work.identity.node}")
