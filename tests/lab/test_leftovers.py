"""A run that was to keep its hosts, and was killed first, leaves nothing for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.lab.folders import make_folder, remove_dead_folders
from tests.lab.host import Host, cleanup_leftovers
from tests.lab.kept import STATE

SCRIPT = (
    "from tests.lab.host import Host; import time; print(Host('t-house', keep=True).pid, flush=True); time.sleep(60)"
)
FOLDER_SCRIPT = (
    "from tests.lab.folders import make_folder; import time; print(make_folder()[0], flush=True); time.sleep(60)"
)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for temporary files, ours alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def kept() -> list[int]:
    """The holders of a demo that stands while we test."""
    return list(json.loads(STATE.read_text())["pids"]) if STATE.exists() else []


@pytest.mark.usefixtures("root")
def test_hosts_of_a_killed_run_are_found() -> None:
    run = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, cwd=ROOT)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    assert pid not in cleanup_leftovers(kept()), "its run still lives"
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert os.path.exists(f"/proc/{pid}")
    assert cleanup_leftovers(kept())
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.usefixtures("root")
def test_hosts_of_a_living_run_stay() -> None:
    host = Host("t-house")
    try:
        cleanup_leftovers(kept())
        assert host.run("echo here").stdout == "here\n"
    finally:
        host.close()


def test_the_folder_of_a_killed_run_goes_that_of_a_living_one_stays(temporary: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", FOLDER_SCRIPT], stdout=subprocess.PIPE, cwd=ROOT)
    assert run.stdout is not None
    folder = Path(run.stdout.readline().decode().strip())
    (temporary / "calico-lab-unlocked").mkdir()
    own, lock = make_folder()
    assert remove_dead_folders() == []
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert remove_dead_folders() == [folder]
    os.close(lock)
    assert remove_dead_folders() == [own]
    assert [path.name for path in temporary.iterdir()] == ["calico-lab-unlocked"]


@pytest.mark.usefixtures("root", "temporary")
def test_a_host_keeps_the_folder_when_its_run_is_gone() -> None:
    folder, lock = make_folder()
    host = Host("t-house", inherits=(lock,))
    os.close(lock)
    try:
        assert remove_dead_folders() == []
    finally:
        host.close()
    assert remove_dead_folders() == [folder]
