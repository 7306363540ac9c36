"""This node's name, and the file in which it is kept (spec/node-startup.md 2)."""

from __future__ import annotations

import logging
import os
import re
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from libcalico.config import shown
from libcalico.conventions import NODENAME_FILE
from libcalico.errors import BadData
from libcalico.files import is_there, read_regular
from libcalico.model.scalars import LONGEST_NAME, is_name

log = logging.getLogger(__name__)

LONGEST_READ = 4096
POSSIBLE = re.compile(r"[a-zA-Z0-9_.-]{1,253}")
FILE_MODE = 0o644
REMEDY = "make the folder, and mount it read-write"


def find_node_name(environment: Mapping[str, str]) -> tuple[str, str]:
    """The name, and where it comes from: NODENAME, the nodename file, HOSTNAME, else the system's host name.

    Raises `BadData` for a file that cannot be read, and for what can be no name."""
    name, source = _found(environment)
    if not POSSIBLE.fullmatch(name):
        raise BadData(f"{shown(name)} ({source}) is no node's name: correct it, or set NODENAME")
    return name, source


def _found(environment: Mapping[str, str]) -> tuple[str, str]:
    if name := environment.get("NODENAME", "").strip():
        return name, "environment: NODENAME"
    path = environment.get("CALICO_NODENAME_FILE") or NODENAME_FILE
    try:
        return read_regular(path, LONGEST_READ).decode().strip(), path
    except (OSError, UnicodeDecodeError) as error:
        if not isinstance(error, FileNotFoundError) or is_there(path):
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            fix = "write the name into it, or set NODENAME"
            raise BadData(f"cannot read the file with the node's name, {path}: {reason}: {fix}") from None
    if name := environment.get("HOSTNAME", "").strip().lower():
        return name, "host name"
    name = socket.gethostname().strip().lower()
    log.warning("neither NODENAME nor HOSTNAME is set: this node is called %s, as its system is", shown(name))
    return name, "host name"


def check_new_name(name: str, source: str) -> None:
    """Raises `BadData` for a name under which no Node can be stored."""
    if not is_name(name) or len(name) > LONGEST_NAME:
        raise BadData(
            f"{shown(name)} ({source}) is no Node's name: use lower case letters, digits, '-' and '.', with a letter or"
            " digit at both ends, and set NODENAME to it"
        )


def check_writable(path: Path) -> None:
    """Raises `BadData` when the file cannot be written: better before anything is stored."""
    folder = path.parent
    if not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
        raise BadData(f"cannot write {path}: {folder} is no folder that can be written to: {REMEDY}")


def write_whole(path: Path, text: str) -> None:
    """Write a small file that others read: at no moment is a part of it there. Raises `BadData`."""
    try:
        number, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(number, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(part, FILE_MODE)
            os.replace(part, path)
        except OSError:
            os.unlink(part)
            raise
    except OSError as error:
        raise BadData(f"cannot write {path}: {error.strerror}: {REMEDY}") from None
