"""DELs that could not be finished, kept on disk until the agent finishes them (`finisher`, docs/adr/0033).

One file for each attachment, below the state directory: it is written and taken away as a whole, by the agent and by
plug-ins that found no agent, so nobody needs a lock. Files are bounded in size and number.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from datetime import datetime
from pathlib import Path

import msgspec

from libcalico.clock import rfc3339
from libcalico.cni import errors
from libcalico.cni.errors import CniError
from libcalico.cni.request import Call, CniRequestData
from libcalico.conventions import STATE_DIRECTORY
from libcalico.errors import BadData
from libcalico.kernel import netns
from libcalico.workload.errors import Refused

LARGEST = 64 << 10
"""Bytes of one file."""
MOST = 4096
"""Files."""
WRITE_TIMEOUT_S = 2.0
_VERSION = 1


class Entry(msgspec.Struct, frozen=True, gc=False, kw_only=True, rename="camel"):
    """One DEL. `namespace` is device and inode of the network namespace that it named, None where there was none."""

    version: int
    time: datetime
    program: str
    environment: dict[str, str]
    stdin: str
    namespace: tuple[int, int] | None = None

    @property
    def request(self) -> CniRequestData:
        """The call again, without its namespace: another one may be at that path by now."""
        environment = {name: value for name, value in self.environment.items() if name != "CNI_NETNS"}
        return CniRequestData(self.program, environment, self.stdin.encode())

    @property
    def has_namespace(self) -> bool:
        """The namespace that the call named is still there."""
        path = self.environment.get("CNI_NETNS", "")
        return self.namespace is not None and bool(path) and netns.identity(path) == self.namespace


class Unfinished:
    """The files below `<state directory>/cni/unfinished`. Everything here blocks, for as long as a file takes."""

    def __init__(self, state_directory: str = STATE_DIRECTORY) -> None:
        self.directory = Path(state_directory, "cni", "unfinished")
        self._path = str(self.directory)  # each ADD and DEL looks there: `Path` is slow

    def names(self) -> list[str]:
        """What is kept, the oldest first; nothing where nothing can be read."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self._path) as listed:
            for item in listed:
                with contextlib.suppress(FileNotFoundError):
                    if not item.name.startswith("."):
                        found.append((item.stat(follow_symlinks=False).st_mtime, item.name))
        return [name for _, name in sorted(found)]

    def read(self, name: str) -> Entry | None:
        """One of the `names`, None when it has gone meanwhile; `BadData` when it cannot be used."""
        try:
            number = os.open(self.directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(number, "rb") as file:
                entry = msgspec.json.decode(file.read(LARGEST + 1), type=Entry)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadData(f"{self.directory / name} cannot be read: {error}") from error
        if entry.version != _VERSION:
            raise BadData(f"{self.directory / name} is of version {entry.version}, wanted {_VERSION}")
        return entry

    def remember(self, request: CniRequestData, call: Call, now: datetime) -> None:
        """Keep a DEL, so that it outlives the process and the machine; `OSError` or `ValueError` when that fails."""
        environment = {
            name: value for name, value in request.environment.items() if name.startswith("CNI_") or name == "PATH"
        }
        namespace = netns.identity(call.netns) if call.netns else None
        entry = Entry(
            version=_VERSION,
            time=now,
            program=call.program,
            environment=environment,
            stdin=request.stdin.decode(),
            namespace=namespace,
        )
        content = msgspec.json.encode(entry)
        if len(content) > LARGEST:
            raise ValueError(f"the call has {len(content)} bytes, at most {LARGEST} are kept")
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        name = _name(call)
        if len(others := self.names()) >= MOST and name not in others:
            raise ValueError(f"{self.directory} holds {len(others)} already")
        _write(self.directory, name, content)

    def forget(self, call: Call) -> None:
        """The attachment has been deleted, or added again."""
        self.drop(_name(call))

    def drop(self, name: str) -> None:
        """Take a file away; one that is gone is fine. After a crash of the machine it may be back, which does no harm:
        the namespaces are gone then."""
        with contextlib.suppress(OSError):
            os.unlink(f"{self._path}/{name}")

    def __contains__(self, name: str) -> bool:
        return os.path.lexists(self.directory / name)


def _name(call: Call) -> str:
    parts = "\0".join((call.program, call.container_id, call.interface, call.network))
    return f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.json"


def _write(directory: Path, name: str, content: bytes) -> None:
    """The whole file or none, on the disk when this returns."""
    number, path = tempfile.mkstemp(prefix=".", dir=directory)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path, directory / name)
    except OSError:
        os.unlink(path)
        raise
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def may_pass(error: BaseException) -> bool:
    """A DEL that failed by this may succeed later: all but what is wrong with the call itself."""
    if isinstance(error, CniError):
        return error.code == errors.TRY_AGAIN
    return not isinstance(error, Refused)


async def remember(kept: Unfinished, request: CniRequestData, call: Call, now: datetime) -> str:
    """Keep a DEL; what to tell its caller. A file system that hangs costs two seconds."""
    work = asyncio.ensure_future(asyncio.to_thread(kept.remember, request, call, now))
    done, _ = await asyncio.wait({work}, timeout=WRITE_TIMEOUT_S)
    if not done:
        work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return f"this DEL is not written to {kept.directory} after {WRITE_TIMEOUT_S:g} s: repeat it"
    error = work.exception()
    if error is not None:
        return f"this DEL cannot be kept in {kept.directory}: {error}: repeat it"
    return f"kept in {kept.directory} at {rfc3339(now)}: the agent finishes this DEL once it can"
