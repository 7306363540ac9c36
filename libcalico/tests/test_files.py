"""What stands in a file's place holds nobody up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libcalico.files import read_regular, read_small


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 70000)
    assert read_regular(tmp_path / "a") == b"x" * 70000
    assert read_regular("/dev/null") == b""


def test_what_is_no_file_or_too_much_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 101)
    for path, why in ((tmp_path / "pipe", "no file"), (tmp_path, "directory"), (Path("/dev/zero"), "too large")):
        with pytest.raises(OSError, match=f"(?i){why}"):
            read_regular(path)
    with pytest.raises(OSError, match=r"(?i)too large"):
        read_regular(tmp_path / "large", 100)
    assert len(read_regular(tmp_path / "large", 101)) == 101
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")


def test_a_pipe_of_the_shell_is_read_and_one_with_a_name_is_refused_at_once(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"kind: x")
    os.close(writing)
    assert read_small(f"/dev/fd/{reading}") == b"kind: x"
    os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="this is a pipe, not a file"):
            read_small(tmp_path / name)
