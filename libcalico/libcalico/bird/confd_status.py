"""What `dcos-calico-confd` says of itself and of BIRD's configuration, in a file for other programs of the host."""

from __future__ import annotations

from pathlib import Path

import msgspec

from libcalico.errors import BadData
from libcalico.files import read_regular
from libcalico.text import shown

STATUS_FILE = "/var/run/calico/confd-status.json"
LARGEST_STATUS = 16 << 20


class ConfdProblem(msgspec.Struct, frozen=True):
    """Something stored that was left out of the configuration, or changed, and why: one clause."""

    subject: str
    reason: str


class ConfdStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All of it. `source` is `agent`, `datastore` or `none`; `source_reason` says why it is not the agent.

    `refused` says why BIRD does not take the newest configuration: then an older one is in force. `failure` is what
    keeps the daemon from its work just now. Both are empty when all is well. `bird` is what became of the last reload.
    `updated` is in UTC."""

    node: str
    pid: int
    updated: str
    source: str
    file: str
    source_reason: str = ""
    sessions: int = 0
    refused: str = ""
    failure: str = ""
    bird: str = ""
    problems: tuple[ConfdProblem, ...] = ()


def read_confd_status(path: str = STATUS_FILE) -> ConfdStatus | None:
    """The status; None when there is none: the daemon has not run since the host was booted. Raises `BadData`."""
    try:
        return msgspec.json.decode(read_regular(path, LARGEST_STATUS), type=ConfdStatus)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(f"read {path}: {shown(error)}") from None


def write_confd_status(path: str, status: ConfdStatus) -> None:
    """Put it in the place of the former one, at once whole. Raises OSError."""
    target = Path(path)
    candidate = target.with_name(f".{target.name}.new")
    candidate.write_bytes(msgspec.json.encode(status) + b"\n")
    candidate.replace(target)
