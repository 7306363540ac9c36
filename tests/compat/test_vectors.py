"""Every vector file that is at hand must play without a failure.

The files are not part of the repository: `CALICO_VECTORS` names their folder, else `../shared/vectors` beside the
checkout is looked at. Without them this is one visible skip; a file that no format claims is one skip, too.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.compat import vectors
from tests.compat.contract import Options

FOLDER = Path(os.environ.get("CALICO_VECTORS") or Path(__file__).parents[3] / "shared" / "vectors")
NEEDS_ROOT = ("cni",)
COMPANIONS = ("verdicts-topology.json",)
"""Files that are read by the format of another."""
FILES = [path for path in sorted(FOLDER.rglob("*.json*")) if path.name not in COMPANIONS]


@pytest.mark.skipif(not FILES, reason=f"no vector files in {FOLDER} (CALICO_VECTORS names another folder)")
@pytest.mark.parametrize("path", FILES or [None], ids=lambda path: path.name if path else "none")
def test_vector_file(path: Path) -> None:
    if path.stem in NEEDS_ROOT and (os.geteuid() or shutil.which("etcd") is None):
        pytest.skip("needs root and etcd")
    if vectors.find_format(path) is None:
        pytest.skip(f"no format in tests/compat/formats claims {path}")
    assert vectors.run(path, Options("nftables", ""))["failed"] == 0, "see the FAIL lines above"


def test_a_file_that_is_not_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert vectors.main(["nowhere/cni.jsonl"]) == 1
    assert "FAIL nowhere/cni.jsonl: no such file" in capsys.readouterr().out


def test_a_file_of_no_format_is_a_failure_for_the_runner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.json").write_text('{"odd": 1}')
    assert vectors.main([str(tmp_path / "odd.json")]) == 1
    assert "no format in tests/compat/formats claims this file" in capsys.readouterr().out
