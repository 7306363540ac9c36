"""A command costs what it needs: loading gRPC takes longer than most commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GOOD = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: good}\nspec: {nets: [10.0.0.0/8]}\n"


@pytest.mark.parametrize("line", ["version --client", "--help", "get --help", "validate -f in.yaml"])
def test_commands_without_a_datastore_do_not_load_grpc(tmp_path: Path, line: str) -> None:
    (tmp_path / "in.yaml").write_text(GOOD)
    script = (
        "import sys; from calicoctl.main import main; status = main(sys.argv[1:]);"
        " sys.exit(status or ('grpc' in sys.modules or 'asyncio' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script, *line.split()], check=True, cwd=tmp_path, capture_output=True)
