"""The debug client: its exit status says whether the question was understood."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from libcalico.obs import debug


def fail(_words: list[str]) -> str:
    raise ValueError("what?")


@pytest.mark.parametrize(
    ("words", "status"),
    [(["hello"], 0), (["help"], 0), (["hallo"], 1), (["fail"], 1), ([], 1)],
)
async def test_exit_status(words: list[str], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "socket")
    async with await debug.serve(path, {"hello": lambda _words: "commands obeyed\n", "fail": fail}):
        assert await asyncio.to_thread(debug.main, [path, *words]) == status
    assert any(capsys.readouterr())


def test_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert debug.main([str(tmp_path / "socket"), "status"]) == 1
    assert "is the daemon running?" in capsys.readouterr().err
