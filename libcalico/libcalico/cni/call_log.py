"""`log_file_path` and `log_level` of a configuration: the lines of its calls, whoever serves them.

A call's lines are its beginning, what the library's loggers say meanwhile, its notes and its outcome. They go to
stderr and, when the call has ended, to the file. A file system that hangs costs a call one second, not the agent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime

from libcalico.clock import Clock
from libcalico.cni import log_file
from libcalico.cni.conf import LogFile, NetConf, read_conf
from libcalico.cni.errors import shown
from libcalico.cni.request import Call
from libcalico.text import escaped

WRITE_TIMEOUT_S = 1.0
MOST_WRITERS = 8
DIRECTORY = "CALICO_CALLER_DIRECTORY"
"""In a call's environment: where its caller is. A relative `log_file_path` begins there."""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "error": logging.ERROR}

_current: ContextVar[CallLog | None] = ContextVar("call_log", default=None)
_log = logging.getLogger(__name__)


class CallLog:
    """The lines of one call. Made by `begin`; `end` writes them."""

    def __init__(self, call: Call, conf: NetConf, clock: Clock) -> None:
        path = conf.log_file.path and os.path.join(call.environment.get(DIRECTORY, ""), conf.log_file.path)
        self._file = conf.log_file._replace(path=path)
        self._clock = clock
        self._level = LEVELS.get(conf.log_level.lower(), logging.INFO)
        self._subject = f"{call.program} {call.container_id}"
        self._lines: list[str] = []
        self.add(logging.INFO, f"{call.command} {call.interface} of network {call.network}, netns {call.netns}")
        self.add(logging.DEBUG, f"CNI_ARGS {shown(call.arguments)}, configuration {shown(call.conf)}")

    @classmethod
    def begin(cls, call: Call, clock: Clock) -> CallLog | None:
        """None when the configuration names neither file nor level."""
        if not call.conf.get("log_file_path") and not call.conf.get("log_level"):
            return None
        conf, _ = read_conf(call.conf, lenient=True)
        if not conf.log_file.path and not conf.log_level:
            return None
        _Collector.install()
        made = cls(call, conf, clock)
        _current.set(made)
        return made

    def add(self, level: int, text: str) -> None:
        """One line, if the call's level has it."""
        if level >= self._level:
            stamp = self._clock.now().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            name = logging.getLevelName(level)
            self._lines.append(f"{stamp} [{name}] {os.getpid()} {self._subject}: {escaped(text)}")

    async def end(self, notes: Sequence[str], failure: str) -> list[str]:
        """All lines, with the notes and the outcome (`failure` "" = success), once they are in the file.

        What goes wrong with the file is one line more."""
        _current.set(None)
        for note in notes:
            self.add(logging.WARNING, note)
        self.add(logging.ERROR if failure else logging.INFO, failure or "done")
        if self._file.path:
            problem = await _write(self._file, "".join(f"{line}\n" for line in self._lines).encode(), self._clock.now())
            if problem:
                self._lines.append(f"log file {self._file.path}: {problem}")
        return self._lines


class _Collector(logging.Handler):
    """What the loggers of the library say during a call."""

    def emit(self, record: logging.LogRecord) -> None:
        log = _current.get()
        if log is not None:
            log.add(record.levelno, f"{record.name}: {record.getMessage()}")

    @classmethod
    def install(cls) -> None:
        root = logging.getLogger("libcalico")
        if not any(isinstance(handler, cls) for handler in root.handlers):
            root.addHandler(cls())


_writers = threading.BoundedSemaphore(MOST_WRITERS)


async def _write(file: LogFile, text: bytes, now: datetime) -> str:
    """What went wrong, "" when nothing did. In a thread that nobody waits for when the process ends."""
    if not _writers.acquire(blocking=False):
        return f"{MOST_WRITERS} calls are writing to log files: these lines are lost"
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()

    def finish(problem: str) -> None:
        if not done.done():
            done.set_result(problem)

    def work() -> None:
        problem = ""
        try:
            log_file.append(file, text, now)
        except OSError as error:
            problem = error.strerror or str(error)
        except (ValueError, OverflowError) as error:  # a path or an age that cannot be
            problem = str(error)
        finally:
            _writers.release()
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, problem)

    threading.Thread(target=work, daemon=True, name="cni-log").start()
    try:
        return await asyncio.wait_for(done, WRITE_TIMEOUT_S)
    except TimeoutError:
        return f"not written after {WRITE_TIMEOUT_S:g} s"
