"""The list of pinned wheels is complete, and fits what our distributions ask for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"(?m)^([A-Za-z0-9_-]+)==(\S+) --hash=sha256:[0-9a-f]{64}$")


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def test_every_dependency_of_ours_is_pinned_in_a_version_that_fits() -> None:
    pinned = {
        canonical(name): version
        for name, version in PIN.findall((ROOT / "packaging/runtime/requirements.txt").read_text())
    }
    projects = [
        tomllib.loads(path.read_text())["project"]
        for pattern in ("*/pyproject.toml", "components/*/pyproject.toml", "packaging/*/pyproject.toml")
        for path in ROOT.glob(pattern)
    ]
    ours = {project["name"] for project in projects}
    assert {"calico-native", "libcalico", "calico-felix", "calicoctl"} <= ours
    wanted = [Requirement(text) for project in projects for text in project.get("dependencies", ())]
    unmet = [
        str(one)
        for one in wanted
        if canonical(one.name) not in ours
        and (canonical(one.name) not in pinned or pinned[canonical(one.name)] not in one.specifier)
    ]
    assert not unmet, "add them to packaging/runtime/requirements.txt, with their own needs"


def test_every_distribution_is_built_into_the_runtime() -> None:
    text = (ROOT / "packaging/runtime/calico_runtime/wheels.py").read_text()
    folders = [
        path.parent.relative_to(ROOT)
        for pattern in ("*/pyproject.toml", "components/*/pyproject.toml")
        for path in ROOT.glob(pattern)
    ]
    assert len(folders) >= 6
    assert [str(folder) for folder in folders if f'"{folder}"' not in text] == []
