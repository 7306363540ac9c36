"""A demo that is kept: whose it is, and what may be asked of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import demo, kept
from tests.lab.host import MARK, is_ours

GONE = 2**22 + 1
"""No process has this id: Linux gives none above 2**22."""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says what stands, and a folder that can go."""
    monkeypatch.setattr(kept, "STATE", tmp_path / "state.json")
    (tmp_path / "folder").mkdir()
    return tmp_path / "state.json"


def write(state: Path, clone: str, pid: int) -> None:
    folder = str(state.parent / "folder")
    state.write_text(json.dumps({"folder": folder, "pids": [pid], "hosts": {"a1": pid}, "clone": clone}))


@pytest.fixture
def holder() -> Iterator[int]:
    """A process that looks like a host of a lab."""
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: "a1"})
    deadline = time.monotonic() + 5
    while not is_ours(process.pid):  # the kernel shows the environment a moment after the program has begun
        assert time.monotonic() < deadline
        time.sleep(0.001)
    yield process.pid
    process.kill()
    process.wait()


def test_a_living_demo_of_another_clone_stays(state: Path, holder: int) -> None:
    write(state, "/elsewhere", holder)
    with pytest.raises(kept.Refused, match="started from /elsewhere"):
        kept.remove()
    assert os.path.exists(f"/proc/{holder}/exe") and (state.parent / "folder").exists() and state.exists()


@pytest.mark.parametrize("clone", ["/elsewhere", str(kept.CLONE)])
def test_a_dead_demo_goes_whoever_kept_it(clone: str, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(state, clone, GONE)
    assert kept.remove()
    assert not (state.parent / "folder").exists() and not state.exists()
    assert f"removing the demo that was kept at {state.parent}/folder (started from {clone})" in capsys.readouterr().out


def test_our_own_demo_goes_with_its_processes(state: Path, holder: int) -> None:
    write(state, str(kept.CLONE), holder)
    assert kept.remove()
    assert os.waitpid(holder, 0)[1] == 9
    assert not kept.remove(), "nothing is left to remove"


def test_nothing_is_asked_of_a_demo_that_does_not_stand(state: Path) -> None:
    with pytest.raises(kept.Refused, match="no demo is standing"):
        kept.load()
    write(state, str(kept.CLONE), GONE)
    with pytest.raises(kept.Refused, match="is dead"):
        kept.load()


@pytest.mark.parametrize(
    "words",
    [
        ["--task", ""],
        ["--task", "two words"],
        ["--task", "a", "--label", "x"],
        ["--task", "a", "--label", "=x"],
        ["--label", "a=b"],
        ["--on", "a2"],
    ],
)
def test_what_cannot_be_a_task_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.parse(words)
    assert "demo: error: " in capsys.readouterr().err


def test_advice_says_where_it_works_and_fits_a_terminal() -> None:
    lines = kept.ADVICE.splitlines()
    assert f"cd {kept.CLONE}" in lines[1]
    assert max(len(line) for line in lines[2:]) <= demo.WIDTH
    assert all(line.lstrip().startswith(("make ", ".venv/bin/python ")) for line in lines[2:] if line)


@pytest.mark.parametrize(
    ("environment", "colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_who_wants_no_colour_gets_none(
    environment: dict[str, str], colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert demo.may_colour() is colour


def test_the_changed_cell_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    before = {(one, other): "yes" for one in demo.TASKS for other in demo.TASKS if one != other}
    demo.show_matrices(list(demo.TASKS), before, {**before, demo.DENIED: "no"})
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if ">no<" in line][1:] == [["fruitstore-frontend", "yes", ">no<"]]
    assert max(map(len, out.splitlines())) <= demo.WIDTH
    with pytest.raises(demo.Unexpected):
        demo.show_matrices(list(demo.TASKS), before, before)


def test_a_command_for_a_host_arrives_as_it_was_typed(tmp_path: Path) -> None:
    """Make expands a `$` of its variables, quotes and all."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    command = """for p in 1 2; do echo "$p $$ $(id -u)" 'x'; done"""
    words = ["make", "-s", "-o", "dev", "shell", f"BIN={tmp_path}", "HOST=a2", f"RUN={command}"]
    done = subprocess.run(words, cwd=kept.CLONE, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-4:] == ["--shell", "a2", "--run", command]


def test_an_interrupt_while_the_hosts_are_made_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["demo"])
    monkeypatch.setattr(kept, "remove", lambda: False)
    monkeypatch.setattr(demo, "cleanup_leftovers", lambda: [])
    monkeypatch.setattr(demo, "Cluster", interrupted)
    former = signal.getsignal(signal.SIGTERM)
    assert demo.main() == 130
    signal.signal(signal.SIGTERM, former)


def test_the_opening_fits() -> None:
    assert len(demo.OPENING) <= demo.WIDTH and all(name in demo.OPENING for name in ("m1", "a1", "a2", "tasks"))
