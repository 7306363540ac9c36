"""What BIRD's configuration needs of this host's files: secrets of sessions, and what felix says of local endpoints."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from calico_bird.routing import Routing
from libcalico.files import read_regular
from libcalico.model.bgp import BGPPassword
from libcalico.text import shown

log = logging.getLogger(__name__)

SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
LARGEST_SECRET = 4096
LARGEST_STATUS = 65536
MOST_STATUSES = 10_000


def wanted_secrets(state: Routing) -> set[tuple[str, str]]:
    """The secrets that stored objects name."""
    passwords: list[BGPPassword | None] = [spec.password for spec in state.peers.values()]
    passwords.append(state.default.node_mesh_password)
    references = [one.secret_key_ref for one in passwords if one is not None]
    return {(one.name, one.key) for one in references if one is not None}


def read_secrets(folder: Path, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The secrets that have a file `<name>/<key>`, without its last newline. Names that lead elsewhere have none."""
    found = {}
    for name, key in wanted:
        if not (_is_plain(name) and _is_plain(key)):
            continue
        try:
            text = read_regular(folder / name / key, LARGEST_SECRET).decode()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            log.warning("cannot read the secret %s/%s: %s", shown(name), shown(key), type(error).__name__)
            continue
        found[name, key] = text.removesuffix("\n")
    return found


def _is_plain(name: str) -> bool:
    """One segment of a path, in the folder and not above it."""
    return bool(SEGMENT.fullmatch(name)) and name not in (".", "..")


def needs_statuses(state: Routing) -> bool:
    """Does a BGPPeer speak of local workloads?"""
    return any(spec.local_workload_selector for spec in state.peers.values())


def read_statuses(folder: Path) -> dict[str, bytes]:
    """The endpoint-status files by name; those that vanish meanwhile, or cannot be read, are not among them."""
    found = {}
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return {}
    for path in paths[:MOST_STATUSES]:
        try:
            found[path.name] = read_regular(path, LARGEST_STATUS)
        except OSError:
            continue
    return found
