"""DEL: interface, addresses and endpoint go; what is gone already is fine; one failure does not stop the rest."""

from __future__ import annotations

from libcalico.cni.add import refuse_own_namespace
from libcalico.cni.conf import read_conf
from libcalico.cni.context import open_context
from libcalico.cni.request import Call
from libcalico.workload import lifecycle
from libcalico.workload.host import Host


async def delete(call: Call, host: Host, notes: list[str]) -> bytes:
    """Do a DEL; it prints nothing."""
    conf, passed_over = read_conf(call.conf, lenient=True)
    notes += passed_over
    context = await open_context(call, conf, host, notes)
    if not conf.ipam_type:
        notes.append("conf has no ipam.type: calico-ipam is taken")
    work = context.work
    problems = await work.alone(lambda: lifecycle.detach(work, context.other))
    if problems:
        raise problems[0]
    refuse_own_namespace(call, host)
    return b""
