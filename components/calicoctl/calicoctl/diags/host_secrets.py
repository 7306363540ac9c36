"""The secrets of this host, so that none of them gets into an archive: of every process's variables and arguments, of
the files that keep them, and of the settings of etcd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from calicoctl.diags.secrets import LONGEST, Secrets, is_secret_name
from libcalico.client import connection
from libcalico.errors import CalicoError

FOLDERS = ("/etc/calico/secrets", "/etc/calico/certs", "/run/dcos/pki/tls/private")
KEEPERS = ("/etc/calico", "/etc/cni/net.d", "/opt/mesosphere/etc/calico")
KEY_SUFFIXES = (".key", ".pem", ".token")
MOST_FILES = 1000
METADATA = "GRPC_METADATA"


def learn(secrets: Secrets, config: str) -> None:
    """Everything that is found; `config` is calicoctl's configuration file."""
    _learn_processes(secrets)
    for folder in FOLDERS:
        for path in _files(Path(folder)):
            _learn_file(secrets, path, whole=True)
    for folder in KEEPERS:
        for path in _files(Path(folder)):
            _learn_file(secrets, path, whole=path.suffix in KEY_SUFFIXES)
    _learn_settings(secrets, config)


def _learn_settings(secrets: Secrets, config: str) -> None:
    try:
        found = connection.load(config, os.environ)
    except CalicoError:
        return
    secrets.learn(found.password.encode())
    for _, value in found.metadata:
        _learn_metadata(secrets, value)
    key = found.certificates.key
    if key is not None and key.path:
        _learn_file(secrets, Path(key.path), whole=True)


def _learn_metadata(secrets: Secrets, value: str) -> None:
    secrets.learn(value.encode())
    secrets.learn(value.partition("=")[2].encode())


def _learn_processes(secrets: Secrets) -> None:
    for name in filter(str.isdigit, os.listdir("/proc")):
        for pair in _read(Path("/proc", name, "environ")).split(b"\0"):
            variable, _, value = pair.partition(b"=")
            text = variable.decode("utf-8", "replace")
            if METADATA in text:
                for one in value.decode("utf-8", "replace").split(","):
                    _learn_metadata(secrets, one.partition(":")[2])
            elif is_secret_name(text):
                secrets.learn(value)
        secrets.learn_text(_read(Path("/proc", name, "cmdline")).replace(b"\0", b" "))


def _learn_file(secrets: Secrets, path: Path, whole: bool) -> None:
    content = _read(path)
    if whole and b"-----BEGIN CERTIFICATE" not in content[:LONGEST]:
        secrets.learn(content)
    secrets.learn_text(content)


def _files(folder: Path) -> Iterator[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    yield from found[:MOST_FILES]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""
