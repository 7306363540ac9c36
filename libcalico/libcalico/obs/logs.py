"""Logging: the standard library's, with one formatter. Everything goes to stderr, where the supervisor collects it."""

from __future__ import annotations

import logging
import sys

SEVERITIES = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "": logging.CRITICAL + 10,
    "none": logging.CRITICAL + 10,
}
FORMAT = "%(asctime)s.%(msecs)03d [%(levelname)s] %(name)s: %(message)s"


def configure(severity: str) -> None:
    """Log to stderr from this severity on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().handlers[:] = [handler]
    set_severity(severity)


def set_severity(severity: str) -> None:
    """Log from this severity on; an unknown word means info, `none` or no word: nothing."""
    logging.getLogger().setLevel(SEVERITIES.get(severity.lower(), logging.INFO))
