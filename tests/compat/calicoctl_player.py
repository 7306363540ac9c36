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
from libcalico import client
from libcalico.client import Client
from libcalico.datastore.memory import MemoryDatastore

ETCD = "http://127.0.0.1:2379"
ENVIRONMENT = {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": "<etcd>"}


class Outcome(NamedTuple):
    """What a command left: exit status and its two outputs."""

    status: int
    stdout: str
    stderr: str


def run_calicoctl(
    store: MemoryDatastore,
    argv: list[str],
    files: Mapping[str, str],
    stdin: str = "",
    environment: Mapping[str, str] = ENVIRONMENT,
) -> Outcome:
    """Run one command line in a directory of its own that holds `files`. `<etcd>` stands for the datastore's URL."""
    out, err = io.StringIO(), io.StringIO()
    former, former_stdin, former_environment = os.getcwd(), sys.stdin, dict(os.environ)
    connect = client.EtcdDatastore  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace("<etcd>", ETCD), encoding="utf-8")
        os.chdir(folder)
        sys.stdin = io.StringIO(stdin)
        os.environ.clear()
        os.environ.update({name: value.replace("<etcd>", ETCD) for name, value in environment.items()})
        client.EtcdDatastore = lambda config: store  # type: ignore[assignment, attr-defined, return-value]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = calicoctl.main.main(argv)
        finally:
            os.chdir(former)
            sys.stdin = former_stdin
            client.EtcdDatastore = connect  # type: ignore[attr-defined]
            os.environ.clear()
            os.environ.update(former_environment)
    return Outcome(status, out.getvalue(), err.getvalue())


def put_all(connection: Client, store: MemoryDatastore, items: list[dict[str, Any]]) -> None:
    """Store recorded keys as they were stored: `raw` text."""
    for item in items:
        connection._run(store.put(item["key"].encode(), item["raw"].encode()))


def all_keys(connection: Client, store: MemoryDatastore) -> dict[str, tuple[str, int]]:
    """Every key with its text and the revision that wrote it last."""
    found = connection._run(store.range(b"/calico/"))
    return {kv.key.decode(): (kv.value.decode(), kv.mod_revision) for kv in found.kvs}
