"""Every vector file that is at hand must play without a failure.

The files are not part of the repository: `tests.compat.vectors.FOLDERS` says where they are looked for. Without them
this is one visible skip.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.compat import vectors
from tests.compat.contract import Options

FILES = vectors.find_files()
NEEDS_ROOT = ("cni", "verdicts")


@pytest.mark.skipif(not FILES, reason=f"no vector files in {vectors.FOLDERS} (CALICO_VECTORS names another folder)")
@pytest.mark.parametrize(
    "path", FILES or [None], ids=lambda path: f"{path.parent.name}/{path.name}" if path else "none"
)
@pytest.mark.timeout(1200)
def test_vector_file(path: Path) -> None:
    if path.stem in NEEDS_ROOT and (os.geteuid() or shutil.which("etcd") is None) and "CI" not in os.environ:
        pytest.skip("needs root and etcd")
    assert vectors.run(path, Options())["failed"] == 0, "see the FAIL lines above"
