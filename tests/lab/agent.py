"""An agent of the lab under a small supervisor, which does what the unit of docs/howto/install.md does: an agent that
ends with status 129, because a setting has changed, is started again. Any other end is one for good. Descriptors are
limited as systemd does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.host import Host

ENDED = "supervisor: the agent has ended with status "
SUPERVISOR = f"""
ulimit -Sn 1024
while :; do
  "$@"; status=$?
  echo "{ENDED}$status"
  [ $status -eq 129 ] || exit $status
done
"""


class Agent:
    """A supervised agent. For whoever asks it like a process, it has ended when the agent that was started here has,
    whether another one runs now or not."""

    def __init__(self, host: Host, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._host = host
        self._log = log
        self._before = 0
        self.forget_exits()
        with log.open("ab") as file:
            words = ["sh", "-c", SUPERVISOR, "supervisor", *command]
            self.supervisor = host.start(words, environment=environment, log=file)

    def exits(self) -> list[int]:
        """With what status the agents have ended, one after the other."""
        return self._all_exits()[self._before :]

    def _all_exits(self) -> list[int]:
        if not self._log.exists():
            return []
        lines = self._log.read_text(errors="replace").splitlines()
        return [int(line.removeprefix(ENDED)) for line in lines if line.startswith(ENDED)]

    def forget_exits(self) -> None:
        """Count from now on."""
        self._before = len(self._all_exits())

    def poll(self) -> int | None:
        """With what status the first agent has ended; None while it runs."""
        return next(iter(self.exits()), None)

    @property
    def is_up(self) -> bool:
        """Does the supervisor still care for an agent?"""
        return self.supervisor.poll() is None

    def stop(self, number: int) -> int:
        """End the agent, and with it the supervisor."""
        return self._host.stop_process(self.supervisor, number)
