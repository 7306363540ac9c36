"""Logging: the standard library's, with one formatter. It goes to stderr, where the supervisor collects it;
from the programs of start-up to stdout, as upstream's."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

from libcalico.text import escaped

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
NAMES = tuple(name for name in SEVERITIES if name)
FORMAT = "%(asctime)s.%(msecs)03d [%(levelname)s] %(name)s: %(message)s"

LONGEST_MESSAGE = 4096
CHATTY = ("grpc", "asyncio")
"""Libraries that have a line for every request, or for their own start, at the severity of debugging."""


class LineFormatter(logging.Formatter):
    """One record is one line of bounded length: what a message quotes begins no other and acts on no terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line."""
        text = record.message
        record.message = escaped(text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "...")
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """The lines of a stack of calls, for mistakes of our own."""
        return "\n".join(escaped(line[:LONGEST_MESSAGE]) for line in super().formatException(ei).split("\n"))


def configure(severity: str, stream: TextIO | None = None) -> None:
    """Log from this severity on, to stderr unless another stream is given."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().handlers[:] = [handler]
    set_severity(severity)


def set_severity(severity: str) -> None:
    """Log from this severity on; an unknown word means info, `none` or no word: nothing."""
    level = SEVERITIES.get(severity.lower(), logging.INFO)
    logging.getLogger().setLevel(level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.INFO))
