"""A short life: what a process of one command leaves out, measured in docs/adr/0040.

Two parts: `prepare` before anything of weight is loaded, and `severity`, by which logging is loaded when something may
log, since that takes as long as several requests to etcd.
"""

from __future__ import annotations

import gc
import sys

SILENT = "none"
COLLECT_AFTER = 50_000
"""Objects: a command of usual size ends before the first collection."""

_severity = SILENT


def prepare() -> None:
    """Let msgspec load without `typing_extensions`: it takes three names of it that this Python's `typing` has, too."""
    gc.set_threshold(COLLECT_AFTER)
    if "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec  # noqa: F401
    except ImportError:  # a release that wants more of it
        pass
    finally:
        del sys.modules["typing_extensions"]


def choose_severity(severity: str) -> None:
    """Log from this severity on, as `libcalico.obs.logs` names it; nothing is loaded for `none`."""
    global _severity
    _severity = severity
    if severity != SILENT:
        load_logging()


def load_logging() -> None:
    """To be called before what logs is loaded: a logger that nobody has configured writes to stderr."""
    from libcalico.obs import logs

    logs.configure(_severity)


def logs_errors() -> bool:
    """Does `--log-level` ask for errors or more?"""
    return _severity != SILENT


def log_failure() -> None:
    """The stack of calls of the exception that is being handled, for `--log-level=debug`."""
    load_logging()
    import logging

    logging.getLogger("calicoctl").debug("the command failed", exc_info=True)


def log_warning(text: str) -> None:
    """A warning of the library's."""
    load_logging()
    import logging

    logging.getLogger("calicoctl").warning(text)
