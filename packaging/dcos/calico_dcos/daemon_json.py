"""Docker's daemon.json with a cluster store, or without (spec/dcos.md 3.6, step B)."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STORE = "etcd://master.dcos.thisdcos.directory:2379"
ADVERTISED_PORT = 62376
CERTIFICATES = ("kv.cacertfile", "kv.certfile", "kv.keyfile")
KEYS = ("cluster-store", "cluster-advertise", "cluster-store-opts")


class Refused(Exception):
    """A file cannot be used; the text names it, the key and the fix."""


def store_options(endpoints: str, file: str) -> dict[str, Any] | None:
    """The cluster store's TLS options: none for plain HTTP. Raises `Refused`."""
    if not endpoints.startswith("https"):
        return None
    if not file:
        raise Refused("ETCD_CLUSTER_STORE_OPTS is not set: with https in ETCD_ENDPOINTS it names a JSON file")
    found = _object(Path(file), _text(Path(file)))
    for key in CERTIFICATES:
        path = found.get(key)
        if not isinstance(path, str) or not os.path.exists(path):
            raise Refused(f"{file}: {key} must name a file that is there, not {path!r}")
    return found


def wanted(text: str, file: Path, address: str, options: Mapping[str, Any] | None) -> str:
    """daemon.json's text with the cluster store in it; other keys and their order stay. Raises `Refused`."""
    content = _object(file, text) if text.strip() else {}
    content["cluster-store"] = STORE
    content["cluster-advertise"] = f"{address}:{ADVERTISED_PORT}"
    if options is None:
        content.pop("cluster-store-opts", None)
    else:
        content["cluster-store-opts"] = dict(options)
    return json.dumps(content, indent="\t")


def update(file: Path, address: str, options: Mapping[str, Any] | None) -> bool:
    """Write daemon.json if it says anything else; true if it did. Its mode stays, and a link to it a link."""
    real = Path(os.path.realpath(file))
    old = _text(real) if real.exists() else ""
    new = wanted(old, file, address, options)
    if new == old:
        return False
    mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else 0o644
    real.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=real.parent, prefix=".daemon.json-")
    try:
        with os.fdopen(descriptor, "w") as written:
            written.write(new)
            os.fchmod(written.fileno(), mode)
            written.flush()
            os.fsync(written.fileno())
        os.replace(name, real)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    return True


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file} cannot be read: {error}") from None


def _object(file: Path, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{file} is not JSON ({error}): nothing was changed, mend it") from None
    if not isinstance(found, dict):
        raise Refused(f"{file} is no JSON object: nothing was changed, mend it")
    return found
