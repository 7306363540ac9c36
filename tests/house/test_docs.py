"""The documents do not lie: names exist, links lead somewhere, the README's script runs."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from libcalico.client.blocking import Client
from libcalico.model.resources import NetworkSet
from libcalico.testing.etcd import Etcd
from tests.house import reference

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "docs" / "spec"
PAGES = sorted(one for one in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")] if one.parent != SPEC)
"""Those of ours: the specification speaks of upstream's programs and files."""
NAME = re.compile(r"`((?:libcalico|calico_\w+|calicoctl)(?:\.\w+)+)`")
LINK = re.compile(r"\]\(([^)#:]+)[^)]*\)")
CITED = re.compile(r"\bspec/(\w[\w-]*\.md)")
CITING = ("docs/**/*.md", "native/**/*.py", "libcalico/**/*.py", "components/**/*.py", "tests/**/*.py")
FILE = re.compile(r"`((?:native|libcalico|components|tests|docs)/[\w./-]+)`")


def resolve(name: str) -> object:
    """The module, class or function of a dotted name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_files_and_links(page: Path) -> None:
    text = page.read_text()
    for name in NAME.findall(text):
        if not name.endswith((".py", ".md")):
            resolve(name)
    for link in LINK.findall(text):
        assert (page.parent / link).exists(), f"{page}: {link}"
    for file in FILE.findall(text):
        assert (ROOT / file).exists(), f"{page}: {file} (from the repository's root)"


@pytest.mark.parametrize("page", reference.PAGES)
def test_a_generated_page_is_what_the_code_says(page: str) -> None:
    assert (reference.FOLDER / page).read_text() == reference.PAGES[page](), "write it anew: make reference"


def test_what_is_cited_of_the_specification_is_there() -> None:
    pages = [path for pattern in CITING for path in ROOT.glob(pattern)]
    cited = {name for path in pages for name in CITED.findall(path.read_text())}
    assert len(cited) > 5
    assert cited <= {page.name for page in SPEC.iterdir()}


def test_every_vector_file_has_the_page_of_its_format() -> None:
    folder = ROOT / "tests/compat/vectors"
    table = (ROOT / "docs/design/vectors.md").read_text()
    files = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.xz")}
    rows = [re.findall(r"`([^`]+)`", line) for line in table.splitlines() if line.startswith("| `") and ".md`" in line]
    assert {page for page, *_ in rows} == {path.name for path in folder.glob("*.md")}
    assert sorted(file for _, *named in rows for file in named) == sorted(files)
    for page, *named in rows:
        text = (folder / page).read_text()
        assert all(Path(file).name in text for file in named), page


def test_nothing_names_a_place_outside_the_clone() -> None:
    """But what every machine has, and what an installation makes."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    own = [
        path for path in listing.split() if path.endswith((".py", ".md", ".toml", ".sh", ".txt", "BUILD", "Makefile"))
    ]
    strange = re.compile(r"(?<![\w.])/(?:work|home)/[\w.]|\.\./shared/")
    found = [path for path in own if (ROOT / path).is_file() and strange.search((ROOT / path).read_text())]
    assert [path for path in found if path != "tests/house/test_docs.py" and not path.startswith("docs/spec/")] == []


def test_the_flow_page_names_the_flow() -> None:
    assert len(NAME.findall((ROOT / "docs/design/flow.md").read_text())) > 30


def test_the_readme_script_runs(etcd: Etcd) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(script.splitlines()) <= 10
    with Client(etcd.endpoint) as calico:
        calico.ensure_initialized()
    script = script.replace("http://127.0.0.1:2379", etcd.endpoint)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    with Client(etcd.endpoint) as calico:
        assert calico.get(NetworkSet, "office", "default").spec.nets == ["192.0.2.0/24"]
