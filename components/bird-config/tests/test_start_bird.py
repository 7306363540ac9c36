"""`dcos-calico-bird` becomes BIRD with the arguments of DC/OS's unit, or says why it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SHOW = "import os\nprint(*open('/proc/self/cmdline').read().split('\\0')[:-1])\nprint(*os.environ)\n"


def _start(folder: Path, program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "PATH": "/usr/bin:/bin", "CALICO_BIRD_FILE": str(folder / "config" / "bird.cfg"),
        "CALICO_BIRD_SOCKET": str(folder / "run" / "bird.ctl"), "CALICO_BIRD_PROGRAM": program, **environment,
    }  # fmt: skip
    command = [sys.executable, "-m", "calico_bird.start_bird"]
    return subprocess.run(command, env=variables, check=False, capture_output=True, text=True, timeout=30)


def test_it_becomes_bird(tmp_path: Path) -> None:
    """In BIRD's place Python, which takes the socket's path for a script."""
    file, socket = tmp_path / "config" / "bird.cfg", tmp_path / "run" / "bird.ctl"
    for one, text in ((file, ""), (socket, SHOW)):
        one.parent.mkdir()
        one.write_text(text)
    done = _start(tmp_path, os.path.realpath(sys.executable), LD_LIBRARY_PATH="/nowhere", KEPT="1")
    words, names = done.stdout.splitlines()
    assert words.split() == ["bird", "-R", "-s", str(socket), "-d", "-c", str(file)]
    assert "KEPT" in names.split() and not {"LD_LIBRARY_PATH", "PYTHONPATH"} & set(names.split())
    assert os.readlink(tmp_path / "run" / "bird6.ctl") == "bird.ctl"
    assert _start(tmp_path, "/bin/true").returncode == 0


def test_no_file_yet(tmp_path: Path) -> None:
    done = _start(tmp_path, "/bin/echo")
    assert (done.returncode, done.stdout) == (1, "")
    assert "bird.cfg is not there yet: dcos-calico-confd writes it" in done.stderr
    assert (tmp_path / "config").is_dir() and (tmp_path / "run").is_dir()


def test_no_program(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "bird.cfg").write_text("")
    done = _start(tmp_path, "/nowhere/bird")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot start BIRD (/nowhere/bird)" in done.stderr and "set CALICO_BIRD_PROGRAM" in done.stderr
