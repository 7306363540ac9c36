"""`log_file_path` and `log_level` hold for a call whoever serves it."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libcalico.cni import CniRequestData, call_log, handle, log_file
from libcalico.cni.conf import LogFile
from libcalico.testing.cni_world import ID, World

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
async def world() -> World:
    made = World()
    await made.start()
    return made


async def test_a_relative_path_begins_where_the_caller_is(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where the agent is; the fallback is there itself."""
    monkeypatch.chdir(tmp_path)
    await world.ok("ADD", log_file_path="own.log")
    environment = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": ID, "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}
    conf = b'{"name": "calico", "ipam": {"type": "calico-ipam"}, "log_file_path": "logs/cni.log"}'
    caller = {call_log.DIRECTORY: str(tmp_path / "caller")}
    assert (await handle(CniRequestData("calico", environment | caller, conf), world.host)).exit_code == 0
    assert "ADD eth0" in (tmp_path / "own.log").read_text()
    assert "DEL eth0" in (tmp_path / "caller" / "logs" / "cni.log").read_text()


async def test_the_lines_of_a_call_are_in_the_file_and_on_stderr(world: World, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cni.log"
    answer = await world.call("ADD", log_file_path=str(path), args="K8S_POD_NAME=x")
    assert answer.exit_code == 0
    lines = path.read_text().splitlines()
    assert f"calico {ID}: ADD eth0 of network calico, netns /box" in lines[0]
    assert lines[-1].endswith("done")
    assert set(lines) <= set(answer.stderr.decode().splitlines())
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o644, 0o755)
    refused = await world.call("ADD", "c2", "/nowhere", log_file_path=str(path), log_level="ERROR")
    assert refused.exit_code == 1
    more = path.read_text().splitlines()[len(lines) :]
    assert [("[ERROR]" in line, "failed to open netns" in line) for line in more] == [(True, True)]


@pytest.mark.parametrize(("level", "begins"), [("debug", True), ("Info", True), ("error", False), ("odd", True)])
async def test_the_level_holds(world: World, tmp_path: Path, level: str, begins: bool) -> None:
    path = tmp_path / "cni.log"
    await world.ok("ADD", log_file_path=str(path), log_level=level)
    text = path.read_text() if path.exists() else ""
    assert ("ADD eth0" in text, "configuration" in text) == (begins, level == "debug")


async def test_what_the_library_says_meanwhile_is_in_the_file_of_that_call_alone(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    caplog.set_level(logging.WARNING, "libcalico")
    real = world.host.open_ipam

    def chatty(client: object, node: str) -> object:
        logging.getLogger("libcalico.cni.x").warning("line\nof %s", node)
        return real(client, node)  # type: ignore[arg-type]

    world.host.open_ipam = chatty  # type: ignore[assignment]
    paths = [tmp_path / f"{number}.log" for number in range(2)]
    await asyncio.gather(
        *(world.ok("ADD", f"c{number}", f"/b{number}", log_file_path=str(path)) for number, path in enumerate(paths))
    )
    for number, path in enumerate(paths):
        text = path.read_text()
        assert (text.count("line\\nof"), f"c{number}:" in text, f"c{1 - number}:" in text) == (1, True, False)


async def test_a_file_that_cannot_be_written_is_a_line_and_no_failure(world: World, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/proc/x/cni.log")):
        answer = await world.call("ADD", log_file_path=str(place))
        assert (answer.exit_code, f"log file {place}: ".encode() in answer.stderr) == (0, True)


@pytest.mark.parametrize("conf", [{"log_file_path": "a\0b"}, {"log_file_max_age": 2**60}])
async def test_what_no_file_can_have_is_a_line_at_once(world: World, tmp_path: Path, conf: dict[str, Any]) -> None:
    path = tmp_path / "cni.log"
    path.write_text("x" * (1 << 20))
    answer = await world.call("ADD", **{"log_file_path": str(path), "log_file_max_size": 1, **conf})
    assert (answer.exit_code, b"log file " in answer.stderr) == (0, True)
    assert b"not written after" not in answer.stderr


async def test_a_file_system_that_hangs_costs_a_second(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_log, "WRITE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(log_file, "append", lambda *_arguments: time.sleep(1.0))
    answer = await world.call("ADD", log_file_path=str(tmp_path / "x"))
    assert (answer.exit_code, b"not written after 0.1 s" in answer.stderr) == (0, True)


def test_a_full_file_is_packed_and_old_ones_go(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path / "cni.log"), max_bytes=100, max_age_days=30, max_count=2)
    for day in range(6):
        log_file.append(file, f"{day}".encode() * 60 + b"\n", NOW + timedelta(days=day))
    assert (tmp_path / "cni.log").read_text() == "5" * 60 + "\n"
    packed = sorted(tmp_path.glob("*.gz"))
    assert [gzip.decompress(one.read_bytes())[:1] for one in packed] == [b"3", b"4"]
    log_file.append(file, b"x" * 90, NOW + timedelta(days=60))
    assert [gzip.decompress(one.read_bytes())[:1] for one in tmp_path.glob("*.gz")] == [b"5"]
