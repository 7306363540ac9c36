"""Standard files that are closed, full, or that nobody reads: one line or silence, never a programmer's words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: good}\nspec: {nets: [10.0.0.0/8]}\n"
SHELL = 'calicoctl() { %s -m calicoctl.main "$@"; }; %s; exit ${PIPESTATUS[0]}'
FULL = "write: no space left on device (standard output is incomplete)\n"
CLOSED = "write: bad file descriptor (standard output is incomplete)\n"
NO_INPUT = "failed to execute command: cannot read standard input: bad file descriptor\n"


def shell(command: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """Status of the first program of a pipe, and both outputs."""
    (folder / "in.yaml").write_text(GOOD)
    done = subprocess.run(
        ["bash", "-c", SHELL % (sys.executable, command)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("words", ["--help", "get --help", "version --client", "validate -f in.yaml", "nonsense"])
def test_a_reader_that_has_gone_ends_a_command_silently(tmp_path: Path, words: str) -> None:
    status, _out, err = shell(f"calicoctl {words} 2>&1 | true", tmp_path)
    assert (status in (141, 1 if words == "nonsense" else 141), err) == (True, "")


@pytest.mark.parametrize("words", ["--help", "get --help", "version --client", "validate -f in.yaml"])
@pytest.mark.parametrize(("where", "text"), [(">/dev/full", FULL), (">&-", CLOSED)])
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, words: str, where: str, text: str) -> None:
    assert shell(f"calicoctl {words} {where}", tmp_path) == (1, "", text)


@pytest.mark.parametrize("command", ["validate", "apply", "create", "replace", "delete", "get"])
def test_a_closed_input_is_one_line(tmp_path: Path, command: str) -> None:
    assert shell(f"calicoctl {command} -f - <&-", tmp_path, ETCD_ENDPOINTS="http://127.0.0.1:1") == (1, "", NO_INPUT)


def test_an_input_that_is_there_is_read(tmp_path: Path) -> None:
    done = (0, "Successfully validated 1 'GlobalNetworkSet' resource(s)\n", "")
    assert shell("calicoctl validate -f - <in.yaml", tmp_path) == done


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_messages_that_cannot_be_written_change_nothing(tmp_path: Path, where: str) -> None:
    assert shell(f"calicoctl nonsense {where}", tmp_path)[:2] == (1, "")


def test_no_file_of_ours_gets_the_number_of_a_closed_one(tmp_path: Path) -> None:
    script = (
        "import os; from calicoctl import stdio; stdio.take_over(); assert os.open('/etc/hostname', os.O_RDONLY) > 2"
    )
    code = f'{sys.executable} -c "{script}" <&- >&- 2>&-'
    subprocess.run(["bash", "-c", code], check=True, timeout=60)


def test_output_is_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    status, out, err = shell("calicoctl get --output=grün x", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (status, out, err) == (1, "", "unrecognized output format 'grün'\n")


def test_a_pipe_that_does_not_block_is_waited_for(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    script = "from calicoctl import stdio; stdio.take_over(); print('x' * 1_000_000)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        received = 0
        while data := os.read(reader, 65536):
            received += len(data)
        os.close(reader)
        assert process.stderr is not None
        assert (received, process.stderr.read()) == (1_000_001, b"")
