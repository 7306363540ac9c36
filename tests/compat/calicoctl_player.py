"""Our `calicoctl` run in this process on a datastore in memory, for vector files that record command lines."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import calicoctl.main
from calicoctl import session
from libcalico.client import Client
from libcalico.datastore.memory import MemoryDatastore


class Outcome(NamedTuple):
    """What a command left: exit status and its two outputs."""

    status: int
    stdout: str
    stderr: str


def run_calicoctl(store: MemoryDatastore, argv: list[str], files: Mapping[str, str], stdin: str = "") -> Outcome:
    """Run one command line in a directory of its own that holds `files`."""
    out, err = io.StringIO(), io.StringIO()
    former, former_stdin, connect = os.getcwd(), sys.stdin, session.connect
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        os.chdir(folder)
        sys.stdin = io.StringIO(stdin)
        session.connect = lambda arguments: Client(datastore=store)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = calicoctl.main.main(argv)
        finally:
            os.chdir(former)
            sys.stdin, session.connect = former_stdin, connect
    return Outcome(status, out.getvalue(), err.getvalue())


def put_all(client: Client, store: MemoryDatastore, items: list[dict[str, Any]]) -> None:
    """Store recorded keys as they were stored: `raw` text."""
    for item in items:
        client._run(store.put(item["key"].encode(), item["raw"].encode()))


def all_keys(client: Client, store: MemoryDatastore) -> dict[str, tuple[str, int]]:
    """Every key with its text and the revision that wrote it last."""
    found = client._run(store.range(b"/calico/"))
    return {kv.key.decode(): (kv.value.decode(), kv.mod_revision) for kv in found.kvs}
