"""Every vector file must play without a failure: those of the repository, or of the folders in CALICO_VECTORS."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.compat import vectors
from tests.compat.contract import Options

FILES = vectors.find_files()
NEEDS_ROOT = ("cni", "verdicts")
assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
@pytest.mark.timeout(1200)
def test_vector_file(path: Path) -> None:
    if path.stem in NEEDS_ROOT and (os.geteuid() or shutil.which("etcd") is None) and "CI" not in os.environ:
        pytest.skip("needs root and etcd")
    assert vectors.run(path, Options())["failed"] == 0, "see the FAIL lines above"
