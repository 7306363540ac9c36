"""New connections of a task, one after the other, until they are ended: which of them were answered."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

from tests.lab.mesos import Task

LOOP = (
    "while [ -e {file} ]; do ping -c1 -W1 {address} >/dev/null && echo answered || echo lost; sleep 0.1; done >> {file}"
)
"""Each ping is a connection of its own to conntrack."""


class Flow(NamedTuple):
    """Connections from one task to another."""

    task: Task
    file: str
    process: subprocess.Popen[bytes]

    def results(self) -> list[str]:
        """`answered` or `lost`, for each."""
        return self.task.host.run(["cat", self.file], check=False).stdout.split()

    def end(self) -> list[str]:
        """End them; their results."""
        found = self.results()
        self.task.host.run(["rm", "-f", self.file])
        self.process.wait(10)
        return found


def start_flow(task: Task, server: Task) -> Flow:
    """Connections from `task` to `server`."""
    file = f"/run/flows-{task.name}"
    task.host.run(f"> {file}")
    return Flow(task, file, task.start(["sh", "-c", LOOP.format(address=server.address, file=file)]))
