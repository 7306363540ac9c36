"""Where the fallback's log lines go: stderr, and the file that the network's configuration names. Never stdout."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from typing import Any

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "error": logging.ERROR}
_FORMAT = "%(asctime)s [%(levelname)s] %(process)d %(name)s: %(message)s"
_MEGABYTE = 1 << 20


def configure(stdin: bytes) -> None:
    """Set up logging by `log_level`, `log_file_path`, `log_file_max_size` and `log_file_max_count`.

    What is wrong in them is passed over: the call itself says so if it matters."""
    try:
        conf = json.loads(stdin or b"{}")
    except ValueError:
        conf = {}
    conf = conf if isinstance(conf, dict) else {}
    level = _LEVELS.get(str(conf.get("log_level", "")).lower(), logging.INFO)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    path = conf.get("log_file_path")
    if isinstance(path, str) and path:
        try:
            handlers.append(_open_file(path, conf))
        except OSError as error:
            print(f"log file {path}: {error.strerror}", file=sys.stderr)
    logging.basicConfig(level=level, format=_FORMAT, handlers=handlers, force=True)


def _open_file(path: str, conf: dict[str, Any]) -> logging.Handler:
    os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
    size = conf.get("log_file_max_size")
    count = conf.get("log_file_max_count")
    return logging.handlers.RotatingFileHandler(
        path,
        maxBytes=(size if isinstance(size, int) and size > 0 else 100) * _MEGABYTE,
        backupCount=count if isinstance(count, int) and count > 0 else 10,
        encoding="utf-8",
    )
