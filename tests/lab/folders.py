"""The folder of a lab (etcd's data, logs). Every process that needs it holds its lock: a killed run's can be told."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "calico-lab-"
LOCK = "lock"


def make_folder() -> tuple[Path, int]:
    """A new folder, and the descriptor that holds its lock: whoever inherits it keeps the folder."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(folder / "new-lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "new-lock").rename(folder / LOCK)  # nobody can see a lock under this name that is not yet held
    return folder, lock


def remove_dead_folders() -> list[Path]:
    """Remove folders whose lock nobody holds. One without a lock is being made, or is not a lab's: it stays."""
    return [folder for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if _remove_if_dead(folder)]


def _remove_if_dead(folder: Path) -> bool:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(lock)
