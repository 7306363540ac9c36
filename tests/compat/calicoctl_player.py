"""What vector files need of our `calicoctl`, and the store that it is run on."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from calicoctl import command_line
from calicoctl.testing import run_calicoctl
from libcalico.client.blocking import Client
from libcalico.datastore.memory import MemoryDatastore
from libcalico.model.kinds import KINDS
from libcalico.model.resources import STRUCTS

MEANT = {"node": "node run"}
"""What files mean by a word that begins commands of ours that upstream's program does not have."""


def lacking(needs: Iterable[str]) -> str:
    """Empty, or which of the commands, kinds and features of `needs` this program does not have."""
    missing = [word for word in needs if not _has(word)]
    return f"needs {', '.join(missing)}" if missing else ""


@cache
def _has(word: str) -> bool:
    if word == "go-template":
        return run_calicoctl(MemoryDatastore(), ["get", "node", "-o", "go-template=x"], {}).status == 0
    if word in KINDS:
        return word in STRUCTS
    word = MEANT.get(word, word)
    return any(command == word or command.startswith(f"{word} ") for command in command_line.COMMANDS)


def put_all(connection: Client, store: MemoryDatastore, items: list[dict[str, Any]]) -> None:
    """Store recorded keys as they were stored: `raw` text."""
    for item in items:
        connection._run(store.put(item["key"].encode(), item["raw"].encode()))


def all_keys(connection: Client, store: MemoryDatastore) -> dict[str, tuple[str, int]]:
    """Every key with its text and the revision that wrote it last."""
    found = connection._run(store.range(b"/calico/"))
    return {kv.key.decode(): (kv.value.decode(), kv.mod_revision) for kv in found.kvs}
