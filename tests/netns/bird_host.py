"""A host with a real BIRD in a namespace, and `dcos-calico-confd` as its own process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from libcalico.bird.control import show_protocols
from libcalico.bird.replies import Protocol
from libcalico.errors import Unavailable
from libcalico.testing.bird import PATH, find_bird
from libcalico.testing.machine import DIE_WITH_US

TIMEOUT_S = 30.0
WAIT_S = 90.0
LOOK_S = 0.1


class Bird:
    """BIRD in a namespace, with its file and socket in a folder."""

    def __init__(self, name: str, space: str, folder: Path) -> None:
        self.name, self.space = name, space
        self.file, self.socket = folder / f"{name}.cfg", str(folder / f"{name}.ctl")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """As `dcos-calico-bird` starts it, with the file that stands."""
        environment = {
            "PATH": PATH, "CALICO_BIRD_FILE": str(self.file), "CALICO_BIRD_SOCKET": self.socket,
            "CALICO_BIRD_PROGRAM": find_bird(),
        }  # fmt: skip
        command = ["ip", "netns", "exec", self.space, *DIE_WITH_US, sys.executable, "-m", "calico_bird.start_bird"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT and the like."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    async def sessions(self) -> dict[str, Protocol]:
        """BGP's rows by name."""
        return {row.name: row for row in await show_protocols(self.socket, TIMEOUT_S) if row.kind == "BGP"}

    async def established(self) -> dict[str, str]:
        """The sessions that are up, and since when."""
        return {name: row.since for name, row in (await self.sessions()).items() if row.info.startswith("Established")}

    def routes(self) -> set[str]:
        """Networks that BIRD wrote into the kernel by way of another host."""
        found = []
        for family in ("-4", "-6"):
            command = ["ip", "-n", self.space, "-j", family, "route", "show", "proto", "bird"]
            found += json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout or "[]")
        return {one["dst"] for one in found if "gateway" in one}


class Confd:
    """`dcos-calico-confd` of one host; it writes BIRD's file."""

    def __init__(self, bird: Bird, node: str, endpoint: str, **settings: str) -> None:
        environment = {
            "PATH": PATH, "NODENAME": node, "ETCD_ENDPOINTS": endpoint, "CALICO_BIRD_FILE": str(bird.file),
            "CALICO_BIRD_SOCKET": bird.socket, "CALICO_BIRD_PROGRAM": find_bird(),
            "CALICO_NODE_SOCKET": f"{bird.socket}-no-agent", **settings,
        }  # fmt: skip
        command = [*DIE_WITH_US, sys.executable, "-m", "calico_bird.main"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def connections(self, port: int) -> int:
        """How many TCP connections it has to a port."""
        assert self.process.poll() is None, "it has ended"
        found = subprocess.run(["ss", "-Htnp", "dport", "=", f":{port}"], check=True, capture_output=True, text=True)
        return sum(f"pid={self.process.pid}," in line for line in found.stdout.splitlines())


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition; BIRD dials two seconds after its start, and again each five."""
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    found = condition()
                    if await found if asyncio.iscoroutine(found) else found:
                        return
                except Unavailable:
                    pass  # it has not made its socket yet
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError(what) from None
