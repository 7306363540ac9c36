"""A connection file that is wrong says so, naming the file and the member."""

from __future__ import annotations

from pathlib import Path

import pytest

from libcalico import client_config
from libcalico.errors import BadData

HEAD = b"apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\n"


def write(folder: Path, content: bytes) -> str:
    """A connection file."""
    path = folder / "calicoctl.cfg"
    path.write_bytes(HEAD + content)
    return str(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"# caf\xe9\n", "line 3: byte 0xe9 is not UTF-8 text"),
        (b"spec: [etcdEndpoints]\n", "spec must be an object"),
        (b"spec: {etcdEndpoints: [http://127.0.0.1:2379]}\n", "etcdEndpoints must be text"),
        (b"spec: {etcdCustomGRPCMetadata: a}\n", "etcdCustomGRPCMetadata must be an object"),
    ],
)
def test_a_file_that_cannot_be_used_is_bad_data_that_names_it(tmp_path: Path, content: bytes, problem: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(BadData, match=f"syntax error in {path}: .*{problem}"):
        client_config.load(path, {})


def test_numbers_become_text(tmp_path: Path) -> None:
    path = write(tmp_path, b"spec: {etcdEndpoints: 'http://[::1]:2379', etcdUsername: 7, etcdPassword: 1234}\n")
    config = client_config.load(path, {})
    assert (config.username, config.password) == ("7", "1234")
