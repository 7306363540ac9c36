"""The agent's wiring, as far as it can be seen without a kernel."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from calico_felix.daemon import Daemon, Sources, _never_ending
from calico_felix.parameters import PARAMETERS
from libcalico.config import Configuration
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import Bug
from libcalico.obs import debug

LONG_S = 10.0
"""Who has to wait fails after this time."""


async def test_an_agent_that_waits_says_for_what(tmp_path: Path) -> None:
    path = str(tmp_path / "debug.sock")
    configuration = Configuration(PARAMETERS)
    configuration.load_environment({"FELIX_DEBUGSOCKET": path}, "FELIX_")
    configuration.resolve()
    daemon = Daemon(Sources("here", configuration, MemoryDatastore()))
    work = asyncio.ensure_future(daemon.run())

    async def ask(command: str) -> str:
        return await asyncio.to_thread(debug.ask, path, command)

    async with asyncio.timeout(LONG_S):
        while not daemon.settings.waiting_for:
            await asyncio.sleep(0.01)
    reason = "waiting: the datastore is not initialised (ClusterInformation default is missing)"
    assert await ask("problems") == f"{reason}\n"
    status = json.loads(await ask("status"))
    assert (status["in_sync"], status["connected"], status["reason"]) == (False, False, reason)
    assert status["programmed_revision"] == 0
    assert "PARAMETER" in await ask("config")
    for command in ("pending", "show endpoints", "table", "resync"):
        assert (await ask(command)).startswith("error: nothing is programmed by this agent yet")
    work.cancel()
    await asyncio.wait({work})
    assert not os.path.exists(path)


async def test_a_signal_ends_the_agent_and_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    configuration = Configuration(PARAMETERS)
    configuration.load_environment({"FELIX_DEBUGSOCKET": str(tmp_path / "debug.sock")}, "FELIX_")
    configuration.resolve()
    daemon = Daemon(Sources("here", configuration, MemoryDatastore()))
    work = asyncio.ensure_future(daemon.run())
    async with asyncio.timeout(LONG_S):
        while not daemon.settings.waiting_for:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await work
    assert "stopping; what is programmed stays in force" in caplog.text


async def test_a_background_task_that_ends_ends_the_agent() -> None:
    async def nothing() -> None:
        return

    with pytest.raises(Bug, match="the task links has ended"):
        await _never_ending("links", nothing)
