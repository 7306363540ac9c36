"""`dcos-calico validate-config FILE`: what is wrong with the `calico_*` parameters of a config.yaml, one line each.
`dcos-calico render-config FILE FOLDER`: write below FOLDER what DC/OS's installer would write for it.

Exit status: 0 = good (warnings do not count), 1 = a parameter is refused, 2 = the file cannot be read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from calico_dcos.parameters import Checked, check
from calico_dcos.rendering import render

LARGEST_FILE = 4 << 20


class Unreadable(Exception):
    """The file is not a config.yaml; the text says why."""


def read(path: Path) -> dict[str, Any]:
    """A config.yaml with every scalar as text, as the installer has it. Raises `Unreadable`."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise Unreadable(f"{path}: more than {LARGEST_FILE >> 20} MiB: this is no config.yaml")
        found = yaml.load(text, yaml.BaseLoader)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if found is None or found == "":
        return {}
    if not isinstance(found, dict):
        raise Unreadable(f"{path}: must be `name: value` lines, as DC/OS's config.yaml is")
    return {str(name): value for name, value in found.items()}


def report(checked: Checked) -> None:
    """Errors and warnings on standard error."""
    for kind, problems in (("error", checked.errors), ("warning", checked.warnings)):
        for one in problems:
            print(f"{kind}: {one.parameter}: {one.value!r}: {one.message}", file=sys.stderr)


def write(folder: Path, files: dict[str, str]) -> None:
    """Files of the host, below `folder`."""
    for name, text in files.items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="dcos-calico", description="Calico's parameters in DC/OS's config.yaml")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("validate-config", "judge a config.yaml"), ("render-config", "write what it turns into")):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=Path, help="DC/OS's config.yaml")
        if name == "render-config":
            command.add_argument("folder", type=Path, help="root below which the host's files are written")
    arguments = parser.parse_args(argv)
    try:
        checked = check(read(arguments.file))
    except Unreadable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report(checked)
    if checked.errors:
        return 1
    if arguments.command == "render-config":
        write(arguments.folder, render(checked.values))
    return 0
