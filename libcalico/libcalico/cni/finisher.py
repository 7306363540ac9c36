"""The agent finishes DELs that could not be finished when they were asked for (`unfinished`, docs/adr/0033).

Nobody asks again for what podman has forgotten, and nobody may be harmed by a DEL that comes late: it is done only when
no host interface of the attachment stands (for `calico-ipam`: when the namespace of the call is gone), alone at its
container, and unless an ADD or a DEL of the same attachment succeeded meanwhile. It removes no interface.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from libcalico.clock import rfc3339
from libcalico.cni import ipam
from libcalico.cni.conf import read_conf
from libcalico.cni.context import Context, open_context
from libcalico.cni.plugins import OWN_PLUGIN
from libcalico.cni.request import Call, parse_request
from libcalico.cni.unfinished import Entry, Unfinished
from libcalico.errors import BadData, CalicoError, DatastoreError
from libcalico.text import shown
from libcalico.workload import addresses, lifecycle
from libcalico.workload.host import Host
from libcalico.workload.work import CALL_TIMEOUT_S, Work

LOOK_S = 1.0
LAST_PAUSE_S = 60.0
"""Between two tries of one DEL: a second, then doubled each time."""
KEPT = timedelta(days=7)
"""Then one that the datastore let us try, and that still fails or waits, is given up."""
MOST_NAMED = 5

_log = logging.getLogger(__name__)


@dataclass
class _Waiting:
    subject: str
    since: str
    next_s: float = 0.0
    pause_s: float = LOOK_S
    problem: str = ""


class Finisher:
    """`is_reachable`: does the datastore answer now, and is everything known that it holds?"""

    def __init__(self, host: Host, kept: Unfinished, is_reachable: Callable[[], bool]) -> None:
        self._host = host
        self._kept = kept
        self._is_reachable = is_reachable
        self._waiting: dict[str, _Waiting] = {}

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Try what is due, one after the other, for as long as the datastore answers."""
        names = self._kept.names()
        self._waiting = {name: self._waiting[name] for name in names if name in self._waiting}
        for name in names:
            waiting = self._waiting.get(name)
            if waiting is not None and self._host.clock.monotonic_s() < waiting.next_s:
                continue
            if not self._is_reachable() or not await self._try(name):
                return

    def __len__(self) -> int:
        return len(self._kept.names())

    def problems(self) -> list[str]:
        """How many wait, and for what, for people."""
        count = len(self)
        if not count:
            return []
        text = f"{count} DEL(s) could not be finished: endpoints and addresses stay until the agent has done it"
        held = [f"{one.subject}, since {one.since}: {one.problem}" for one in self._waiting.values() if one.problem]
        return [text, *held[:MOST_NAMED]]

    async def _try(self, name: str) -> bool:
        """One DEL. False when the datastore did not answer."""
        try:
            entry = self._kept.read(name)
            call = parse_request(entry.request) if entry is not None else None
        except BadData as error:
            _log.warning("a DEL that was not finished is given up: %s", shown(str(error)))
            self._kept.drop(name)
            return True
        if entry is None or call is None:
            return True
        subject = f"DEL of container {call.container_id}, interface {call.interface}, network {shown(call.network)}"
        waiting = self._waiting.setdefault(name, _Waiting(subject, rfc3339(entry.time)))
        reached = True
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                problem = await self._finish(name, entry, call)
        except Exception as error:  # one that fails must not stop the others, nor the agent
            reached = not isinstance(error, DatastoreError)
            problem = shown(str(error)) if isinstance(error, CalicoError) else f"failed: {error!r}"
        self._note(name, entry, waiting, problem)
        return reached

    def _note(self, name: str, entry: Entry, waiting: _Waiting, problem: str) -> None:
        if not problem:
            _log.info("%s, since %s: finished", waiting.subject, waiting.since)
            self._waiting.pop(name, None)
            return
        if problem != waiting.problem:
            _log.warning("%s, since %s: %s", waiting.subject, waiting.since, problem)
        waiting.problem = problem
        waiting.next_s = self._host.clock.monotonic_s() + waiting.pause_s
        waiting.pause_s = min(2 * waiting.pause_s, LAST_PAUSE_S)
        if self._host.clock.now() - entry.time > KEPT:
            _log.warning("%s, since %s: given up after %d days", waiting.subject, waiting.since, KEPT.days)
            self._kept.drop(name)

    async def _finish(self, name: str, entry: Entry, call: Call) -> str:
        """Do it; "" when it is done, else for what it waits."""
        conf, _ = read_conf(call.conf, lenient=True)
        context = await open_context(call, conf, self._host, [])
        work = context.work
        if call.program == OWN_PLUGIN:
            return await ipam.alone(work, lambda: self._finish_addresses(name, entry, work))
        return await work.alone(lambda: self._finish_attachment(name, context))

    async def _finish_addresses(self, name: str, entry: Entry, work: Work) -> str:
        if name in self._kept:  # else an ADD or DEL succeeded while this waited for its turn
            if entry.has_namespace:
                return f"waits for the end of namespace {shown(entry.environment.get('CNI_NETNS', ''))}"
            await addresses.release(work, [work.attachment.network])
            self._kept.drop(name)
        return ""

    async def _finish_attachment(self, name: str, context: Context) -> str:
        if name in self._kept:
            if standing := await lifecycle.standing_interfaces(context.work):
                return f"waits for the end of host interface {', '.join(standing)}"
            if problems := await lifecycle.detach(context.work, context.other):
                raise problems[0]
            self._kept.drop(name)
        return ""
