"""What the daemon says of its work: lines in the log when something changes, figures, and a status file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

import msgspec

from calico_bird.following import AGENT, Following
from calico_bird.reload import Reloaded
from calico_bird.routing import Problem
from libcalico.bird.confd_status import ConfdProblem, ConfdStatus, write_confd_status
from libcalico.clock import Clock, rfc3339

log = logging.getLogger(__name__)

COUNTERS = ("confd_refusals", "confd_failures", "confd_writes", "confd_reloads")


class Report:
    """`refused` is why `bird -p` does not take what was rendered last, `not_taken` why the BIRD that runs does not take
    the file, `failure` what keeps the daemon from its work; empty when all is well. `answer` is what became of the last
    reload. `path` is the status file's."""

    def __init__(self, node: str, file: str, path: str, clock: Clock) -> None:
        self.refused = self.not_taken = self.failure = self.answer = ""
        self.sessions = 0
        self.counts = dict.fromkeys(COUNTERS, 0)
        self._node, self._file, self._path = node, file, path
        self._clock = clock
        self._problems: frozenset[Problem] = frozenset()
        self._written: ConfdStatus | None = None
        self._complaint = ""

    def on_problems(self, problems: Iterable[Problem]) -> None:
        """What is wrong now: each is logged once, and when it is gone."""
        found = frozenset(problems)
        for one in sorted(found - self._problems):
            log.warning("%s: %s", one.subject, one.reason)
        for one in sorted(self._problems - found):
            log.info("%s: no longer: %s", one.subject, one.reason)
        self._problems = found

    def on_judged(self, refused: str) -> None:
        """BIRD takes what was rendered (empty), or says why not."""
        if refused and refused != self.refused:
            self.counts["confd_refusals"] += 1
            log.error("BIRD refuses the new configuration, the last good one stands: %s", refused)
        elif self.refused and not refused:
            log.info("BIRD takes the new configuration")
        self.refused = refused

    def on_reload(self, reloaded: Reloaded) -> None:
        """BIRD was asked to read its file again."""
        self.counts["confd_reloads"] += reloaded.done
        self.answer = reloaded.answer
        if reloaded.refused:
            log.error("BIRD does not take %s: %s", self._file, reloaded.refused)
        self.not_taken = reloaded.refused

    def on_success(self) -> None:
        """All that there was to do is done."""
        if self.failure:
            log.info("no longer: %s", self.failure)
        self.failure = ""

    def on_failure(self, failure: str, retry_s: float) -> None:
        """The work is not done, and tried again."""
        self.counts["confd_failures"] += 1
        if failure != self.failure:
            log.warning("%s: tried again, first in %g s", failure, retry_s)
        self.failure = failure

    def write(self, following: Following) -> None:
        """Bring the status file up to date; one that cannot be written costs only itself."""
        status = ConfdStatus(
            node=self._node, pid=os.getpid(), updated="", source=following.source, source_reason=following.reason,
            file=self._file, sessions=self.sessions, refused=self.refused or self.not_taken, failure=self.failure,
            bird=self.answer, problems=tuple(ConfdProblem(*one) for one in sorted(self._problems)),
        )  # fmt: skip
        if status == self._written:
            return
        complaint = ""
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            write_confd_status(self._path, msgspec.structs.replace(status, updated=rfc3339(self._clock.now())))
            self._written = status
        except OSError as error:
            complaint = f"cannot write the status file {self._path}: {error}"
        if complaint != self._complaint and complaint:
            log.warning("%s", complaint)
        self._complaint = complaint

    def figures(self, following: Following) -> dict[str, float]:
        """By the names of `obs.figures`."""
        return {
            "confd_sessions": self.sessions,
            "confd_problems": len(self._problems),
            "confd_refused": bool(self.refused or self.not_taken),
            "confd_failing": bool(self.failure),
            "confd_follows_agent": following.source == AGENT,
            "confd_switches": following.switches,
            **self.counts,
        }
