"""A BIRD whose control socket is away or hangs gets a signal, if it is the one with that socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calico_bird.reload import Reloaded, reload
from libcalico.errors import Unavailable
from libcalico.testing.machine import DIE_WITH_US

SCRIPT = b'trap \'echo hung up >> "$1.log"\' HUP; echo ready > "$1.ready"; while :; do sleep 0.05; done\n'


@contextlib.asynccontextmanager
async def _process(name: str, socket_path: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A shell with the arguments of BIRD, which notes that it was hung up."""
    ready = Path(f"{socket_path}.ready")
    argv = ["sh", "-c", f'exec -a {name} sh -s "$1"', "sh", str(socket_path)]
    with subprocess.Popen([*DIE_WITH_US, "bash", *argv[1:]], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(SCRIPT)
        process.stdin.flush()
        try:
            await _until(ready)
            yield process
        finally:
            process.kill()


async def _until(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.exists():
            await asyncio.sleep(0.01)


async def test_a_socket_that_is_away(tmp_path: Path) -> None:
    path = tmp_path / "bird.ctl"
    async with _process("bird", path) as process:
        reloaded = await reload(str(path), 5)
        assert reloaded.done and f"SIGHUP was sent to process {process.pid}" in reloaded.answer
        await _until(Path(f"{path}.log"))


async def test_a_socket_that_hangs(tmp_path: Path) -> None:
    path = tmp_path / "bird.ctl"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(Unavailable, match="did not answer 'configure'"):
            await reload(str(path), 0.1)
        async with _process("/usr/sbin/bird", path):
            assert (await reload(str(path), 0.1)).done
            await _until(Path(f"{path}.log"))


async def test_other_processes_get_no_signal(tmp_path: Path) -> None:
    path, other = tmp_path / "bird.ctl", tmp_path / "other.ctl"
    async with _process("birdcl", path), _process("bird", other):
        assert await reload(str(path), 5) == Reloaded(False, "no BIRD runs")
        assert not Path(f"{path}.log").exists() and not Path(f"{other}.log").exists()
