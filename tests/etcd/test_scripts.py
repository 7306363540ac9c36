"""The scripts of docs/howto/scripts.md: each runs, prints what the page says, and passes mypy --strict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from libcalico.testing.etcd import Etcd

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)

HEAD = (
    "from libcalico import Client",
    "from libcalico.client.objects import AsyncClient",
    "from libcalico.model import IPPool, Node, WorkloadEndpoint",
    "calico = Client()",
    "pool = calico.get(IPPool, 'x')",
)
POOL, ENDPOINT = "libcalico.model.resources.IPPool", "libcalico.model.resources.WorkloadEndpoint"
TYPES = (
    ("reveal_type(pool)", f'"{POOL}"'),
    ("reveal_type(calico.list(WorkloadEndpoint, namespace='default'))", f'"list[{ENDPOINT}]"'),
    ("reveal_type(calico.list_at_revision(IPPool).items)", f'"tuple[{POOL}, ...]"'),
    ("reveal_type(calico.create(pool))", f'"{POOL}"'),
    ("reveal_type(calico.update(pool))", f'"{POOL}"'),
    ("reveal_type(calico.apply(pool))", f'"{POOL}"'),
    ("reveal_type(calico.replace(pool))", f'"{POOL}"'),
    ("reveal_type(calico.delete(IPPool, 'x'))", f'"{POOL} | None"'),
    ("reveal_type(calico.get('pools', 'x').metadata.name)", '"str"'),
    ("reveal_type(calico.ipam.ips_by_handle('h'))", '"tuple[str, ...]"'),
    ("reveal_type(calico.ipam.auto_assign(1, host='h')[0])", "fallback=libcalico.ipam.assignment.Assigned] | None"),
    ("async def get(client: AsyncClient) -> None: reveal_type(await client.get(Node, 'x'))", "resources.Node"),
    ("pool.spec.nets", 'has no attribute "nets"'),
    ("calico.get('pools', 'x').spec.cidr", 'has no attribute "cidr"'),
    ("calico.get(int, 'x')", 'cannot be "int"'),
    ("calico.ipam.auto_asign(1)", 'has no attribute "auto_asign"'),
    ("calico.ipam.auto_assign('1')", "incompatible type"),
)
"""A line of a script, and what mypy says of it."""


def examples() -> list[tuple[str, str]]:
    """Every script of the page, and what it prints."""
    text = (ROOT / "docs/howto/scripts.md").read_text()
    found = EXAMPLE.findall(text)
    assert len(found) == text.count("```python") > 5, "a script without its output"
    return found


def test_every_script_prints_what_the_page_says(etcd: Etcd, tmp_path: Path) -> None:
    environment = {**os.environ, "ETCD_ENDPOINTS": etcd.endpoint}
    for script, printed in examples():
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.stderr, done.returncode) == (printed, "", 0), script


def mypy(folder: Path) -> tuple[int, str]:
    """What a stranger's strict mypy says of the files of a folder, by what the installed package says of itself."""
    files = sorted(path.name for path in folder.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", *files],
        cwd=folder, env={**os.environ, "MYPYPATH": ""}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_every_script_is_typed(tmp_path: Path) -> None:
    for number, (script, _printed) in enumerate(examples()):
        (tmp_path / f"script{number}.py").write_text(script)
    assert mypy(tmp_path) == (0, f"Success: no issues found in {len(examples())} source files\n")


def test_mypy_knows_what_comes_back(tmp_path: Path) -> None:
    """The kinds that are given are those that come back, and what no kind has is an error."""
    script = [line for line, _said in TYPES]
    (tmp_path / "types_of.py").write_text("\n".join([*HEAD, *script, ""]))
    status, said = mypy(tmp_path)
    assert status == 1
    for number, (line, words) in enumerate(TYPES, start=len(HEAD) + 1):
        here = [one for one in said.splitlines() if one.startswith(f"types_of.py:{number}: ")]
        assert any(words in one.replace("builtins.", "") for one in here), (line, words, said)
