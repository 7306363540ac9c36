"""One archive: a folder `diagnostics`, whose `index.md` says what looks wrong and what is where. Everything passes
`Secrets.clean` on its way in."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from calicoctl.diags.collect import Item
from calicoctl.diags.findings import Finding
from calicoctl.diags.secrets import Secrets
from libcalico.text import escaped

FOLDER = "diagnostics"
INDEX = "index.md"
LARGEST_ALL = 64 << 20
"""Octets of all files together; what comes after is left out, and named."""


def index(title: str, findings: Sequence[Finding], items: Sequence[Item], replaced: int) -> str:
    """The page to read first."""
    lines = [f"# {title}", "", "## What looks wrong", ""]
    lines += [f"- {escaped(one.text)} (see `{one.file}`)" for one in findings]
    if not findings:
        lines += ["Nothing that these diagnostics look at."]
    missing = [one for one in items if one.problem]
    lines += ["", "## What could not be collected, or not whole", ""]
    lines += [f"- `{one.file}`, {one.title}: {escaped(' '.join(one.problem.split()))}" for one in missing] or [
        "Nothing."
    ]
    lines += ["", "## What is where", "", "| file | what it is | octets |", "|---|---|---|"]
    lines += [f"| `{one.file}` | {one.title} | {len(one.content)} |" for one in items]
    lines += [
        "",
        f"Secrets were replaced by `<secret>` in {replaced} places. Look through the archive before you pass it on.",
    ]
    return "\n".join(lines) + "\n"


def bounded(items: Sequence[Item]) -> list[Item]:
    """As many as there is room for; the content of the others is left out."""
    size, kept = 0, []
    for one in items:
        size += len(one.content)
        is_over = size > LARGEST_ALL
        kept.append(one._replace(content=b"", problem="left out: the archive is large enough") if is_over else one)
    return kept


def clean(items: Sequence[Item], secrets: Secrets) -> list[Item]:
    """The items without secrets, also in what is said of them."""
    return [
        one._replace(
            content=secrets.clean(one.content), problem=secrets.clean(one.problem.encode()).decode("utf-8", "replace")
        )
        for one in items
    ]


def write(
    path: Path, title: str, findings: Sequence[Finding], items: Sequence[Item], secrets: Secrets, at_s: float
) -> None:
    """The archive at `path`, readable by its owner alone; `at_s` is the time of its files."""
    cleaned = clean(bounded(items), secrets)
    page = secrets.clean(index(title, findings, cleaned, secrets.replaced).encode())
    with open(path, "xb", opener=_private) as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive:
        for name, content in [(INDEX, page), *((one.file, one.content) for one in cleaned)]:
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size, member.mtime, member.mode = len(content), int(at_s), 0o600
            archive.addfile(member, io.BytesIO(content))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
