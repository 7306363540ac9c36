"""A log file that several processes append to, and that is rotated by size: `x.log` becomes `x-<time>.log.gz`."""

from __future__ import annotations

import fcntl
import os
from datetime import datetime, timedelta
from pathlib import Path

from libcalico.cni.conf import LogFile

_STAMP = "%Y-%m-%dT%H-%M-%S.%f"


def append(file: LogFile, text: bytes, now: datetime) -> None:
    """Add the text, after a rotation if it is time for one; raises `OSError`.

    The directory is made (0755), the file too (0644). A pipe or a device in its place is refused, or would block."""
    path = Path(file.path)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    try:
        size = os.fstat(number).st_size
        if size and size + len(text) > file.max_bytes and _rotate(file, path, number, now):
            os.close(number)
            number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        os.write(number, text)
    finally:
        os.close(number)


def _rotate(file: LogFile, path: Path, number: int, now: datetime) -> bool:
    """True when the file at the path is not the one of the descriptor any more: by us, or by another process."""
    fcntl.flock(number, fcntl.LOCK_EX)
    if not path.exists() or os.fstat(number).st_ino != path.stat().st_ino:
        return True
    old = path.with_name(f"{path.stem}-{now.strftime(_STAMP)}{path.suffix}")
    path.rename(old)
    import gzip  # rare, and the fallback starts for one call
    import shutil

    packed = old.with_name(f"{old.name}.gz")
    with open(old, "rb") as source, gzip.open(packed, "wb") as target:
        shutil.copyfileobj(source, target)
    old.unlink()
    _prune(file, path, now)
    return True


def _prune(file: LogFile, path: Path, now: datetime) -> None:
    packed = sorted(path.parent.glob(f"{path.stem}-*{path.suffix}.gz"), reverse=True)
    oldest = (now - timedelta(days=file.max_age_days)).strftime(_STAMP)
    for place, old in enumerate(packed):
        stamp = old.name[len(path.stem) + 1 :]
        if place >= file.max_count or stamp < oldest:
            old.unlink(missing_ok=True)
