"""The file that BIRD reads is the last one that it takes, whole, and not written without need."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from calico_bird.apply import Applied, Change, apply
from libcalico.errors import Unavailable
from libcalico.testing.bird import find_bird

GOOD = "router id 10.0.0.1;\nprotocol device {}\n"
BAD = "router id 10.0.0.1;\nprotocol devise {}\n"
TIMEOUT_S = 30


async def test_written_once(tmp_path: Path) -> None:
    path = tmp_path / "bird.cfg"
    assert await apply(GOOD, path, find_bird(), TIMEOUT_S) == Applied(Change.WRITTEN)
    first = path.stat()
    assert await apply(GOOD, path, find_bird(), TIMEOUT_S) == Applied(Change.UNCHANGED)
    assert path.stat().st_ino == first.st_ino
    assert path.read_text() == GOOD
    assert stat.S_IMODE(first.st_mode) == 0o640 & ~_umask()
    assert os.listdir(tmp_path) == ["bird.cfg"]


async def test_a_refused_text_leaves_the_last_good_file(tmp_path: Path) -> None:
    path = tmp_path / "bird.cfg"
    await apply(GOOD, path, find_bird(), TIMEOUT_S)
    applied = await apply(BAD, path, find_bird(), TIMEOUT_S)
    assert applied.change is Change.REFUSED
    assert "line:2:" in applied.reason and str(tmp_path) not in applied.reason
    assert path.read_text() == GOOD
    assert os.listdir(tmp_path) == ["bird.cfg"]


async def test_a_refused_first_text_is_not_written(tmp_path: Path) -> None:
    assert (await apply(BAD, tmp_path / "bird.cfg", find_bird(), TIMEOUT_S)).change is Change.REFUSED
    assert os.listdir(tmp_path) == []


async def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f".bird.cfg.{os.getpid()}").write_text("half")
    assert (await apply(GOOD, tmp_path / "bird.cfg", find_bird(), TIMEOUT_S)).change is Change.WRITTEN


async def test_no_program(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="check BIRD's configuration"):
        await apply(GOOD, tmp_path / "bird.cfg", "/nowhere/bird", TIMEOUT_S)
    assert os.listdir(tmp_path) == []


async def test_a_check_that_hangs(tmp_path: Path) -> None:
    hung = tmp_path / "hung"
    hung.write_text("#!/bin/sh\nsleep 60\n")
    hung.chmod(0o755)
    with pytest.raises(Unavailable, match=r"-p did not end within 0\.3 s"):
        await apply(GOOD, tmp_path / "bird.cfg", str(hung), 0.3)


async def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="write "):
        await apply(GOOD, tmp_path / "gone" / "bird.cfg", find_bird(), TIMEOUT_S)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
