"""Every vector file that is at hand must play without a failure.

The files are not part of the repository: `CALICO_VECTORS` names their folder, else `../shared/vectors` beside the
checkout is looked at. Without them this is one visible skip.
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
FILES = [path for path in sorted(FOLDER.rglob("*.json*")) if vectors.find_format(path) is not None]


@pytest.mark.skipif(not FILES, reason=f"no vector files in {FOLDER} (CALICO_VECTORS names another folder)")
@pytest.mark.parametrize("path", FILES or [None], ids=lambda path: path.name if path else "none")
def test_vector_file(path: Path) -> None:
    if path.stem in NEEDS_ROOT and (os.geteuid() or shutil.which("etcd") is None):
        pytest.skip("needs root and etcd")
    assert vectors.run(path, Options("nftables", ""))["failed"] == 0, "see the FAIL lines above"
