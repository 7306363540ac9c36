"""`calicoctl` run in this process on a datastore in memory, for tests. No command imports it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import calicoctl.main
from calicoctl import session
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
    return run_and_list(store, argv, files, stdin, environment)[0]


def run_and_list(
    store: MemoryDatastore,
    argv: list[str],
    files: Mapping[str, str],
    stdin: str = "",
    environment: Mapping[str, str] = ENVIRONMENT,
) -> tuple[Outcome, dict[str, str]]:
    """Run one command line as `run_calicoctl` does; also the files that it made or changed, with their text."""
    out, err = io.StringIO(), io.StringIO()
    laid = {name: text.replace("<etcd>", ETCD) for name, text in files.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in laid.items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        with (
            _as_process(folder, stdin, environment),
            _connected(store),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = calicoctl.main.main(argv)
        standing = {str(p.relative_to(folder)): p for p in sorted(Path(folder).rglob("*")) if p.is_file()}
        texts = {name: path.read_text(encoding="utf-8", errors="replace") for name, path in standing.items()}
    made = {name: text for name, text in texts.items() if laid.get(name) != text}
    return Outcome(status, out.getvalue(), err.getvalue()), made


@contextlib.contextmanager
def _as_process(folder: str, stdin: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Directory, stdin and environment of a process of its own."""
    former, former_stdin, former_environment = os.getcwd(), sys.stdin, dict(os.environ)
    os.chdir(folder)
    sys.stdin = io.StringIO(stdin)
    os.environ.clear()
    os.environ.update({name: value.replace("<etcd>", ETCD) for name, value in environment.items()})
    try:
        yield
    finally:
        os.chdir(former)
        sys.stdin = former_stdin
        os.environ.clear()
        os.environ.update(former_environment)


@contextlib.contextmanager
def _connected(store: MemoryDatastore) -> Iterator[None]:
    """Whoever connects to `ETCD` gets the store; every other endpoint is tried for real."""
    connect = session.open_datastore

    def chosen(config: Any) -> Any:
        return store if ETCD in config.endpoints else connect(config)

    session.open_datastore = chosen
    try:
        yield
    finally:
        session.open_datastore = connect
