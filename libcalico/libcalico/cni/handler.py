"""One CNI call from its environment and stdin to what the program prints: used by the agent and by the fallback."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence

from libcalico.cni import check, errors, gc, ipam, status, unfinished, versions
from libcalico.cni.add import add
from libcalico.cni.call_log import CallLog
from libcalico.cni.delete import delete
from libcalico.cni.errors import CniError
from libcalico.cni.request import Call, CniAnswer, CniRequestData, parse_request
from libcalico.cni.result import render_json
from libcalico.cni.unfinished import Unfinished
from libcalico.errors import CalicoError, DatastoreError
from libcalico.text import escaped
from libcalico.workload.attach import InterfaceExists
from libcalico.workload.errors import TryAgain
from libcalico.workload.host import Host
from libcalico.workload.work import CALL_TIMEOUT_S

_log = logging.getLogger(__name__)

Command = Callable[[Call, Host, list[str]], Awaitable[bytes]]
COMMANDS: dict[tuple[str, str], Command] = {
    ("calico", "ADD"): add,
    ("calico", "DEL"): delete,
    ("calico", "CHECK"): check.check,
    ("calico", "GC"): gc.collect_garbage,
    ("calico", "STATUS"): status.status,
    ("calico-ipam", "ADD"): ipam.add_addresses,
    ("calico-ipam", "DEL"): ipam.delete_addresses,
    ("calico-ipam", "CHECK"): check.check_addresses,
    ("calico-ipam", "GC"): gc.collect_addresses,
    ("calico-ipam", "STATUS"): status.status,
}
PROGRAMS = ("calico", "calico-ipam")


async def handle(request: CniRequestData, host: Host, limit_s: float = 0, kept: Unfinished | None = None) -> CniAnswer:
    """Answer one call, in `limit_s` seconds (0 = 60) and those of an undo (`workload.locks.LINGER_S`).

    `kept` takes DELs that failed, which the agent finishes later (None: no agent would).
    Never raises, except when it is cancelled: every failure is an answer."""
    limit_s = limit_s or CALL_TIMEOUT_S
    command = request.environment.get("CNI_COMMAND", "")
    notes: list[str] = []
    if request.program not in PROGRAMS:
        return CniAnswer(1, b"", f"Unknown binary name: {request.program}\n".encode())
    if not command:
        return CniAnswer(0, b"", about(request.program))
    if command == "VERSION":
        return CniAnswer(0, version_answer())
    call: Call | None = None
    log: CallLog | None = None
    failure: CniError | None = None
    try:
        async with asyncio.timeout(limit_s):
            call = parse_request(request)
            log = CallLog.begin(call, host.clock)
            stdout = await COMMANDS[call.program, call.command](call, host, notes)
        _forget(call, kept)
    except asyncio.CancelledError as error:
        await _remember(request, call, host, kept, error, notes)
        if log is not None:
            await log.end(notes, "the caller went away")
        raise
    except Exception as error:
        await _remember(request, call, host, kept, error, notes)
        failure = explain(error, command, limit_s)
        stdout = render_json(failure.to_object())
        notes += getattr(error, "__notes__", ())
    outcome = f"Final result of CNI {command} was an error: {failure}" if failure is not None else ""
    lines = await log.end(notes, outcome) if log is not None else notes
    if failure is None:
        return CniAnswer(0, stdout, _lines(lines))
    _log.warning("cni %s %s: %s", command, request.environment.get("CNI_CONTAINERID", ""), failure)
    return CniAnswer(1, stdout, _lines([*lines, outcome] if log is None else lines))


def _forget(call: Call, kept: Unfinished | None) -> None:
    """What was to be deleted is deleted, or there again."""
    if kept is not None and call.command in {"ADD", "DEL"}:
        kept.forget(call)


async def _remember(
    request: CniRequestData,
    call: Call | None,
    host: Host,
    kept: Unfinished | None,
    error: BaseException,
    notes: list[str],
) -> None:
    """A DEL that may succeed later: not every runtime comes again."""
    if call is not None and call.command == "DEL" and kept is not None and unfinished.may_pass(error):
        notes.append(await unfinished.remember(kept, request, call, host.clock.now()))


def explain(error: Exception, command: str, limit_s: float) -> CniError:
    """Any failure as the error object that the caller gets."""
    match error:
        case CniError():
            return error
        case InterfaceExists():
            return CniError(errors.GENERAL, "file exists", str(error))
        case TimeoutError():
            return CniError(errors.TRY_AGAIN, f"not finished in {limit_s:.0f} s: try again later")
        case TryAgain():
            return CniError(errors.TRY_AGAIN, str(error))
        case DatastoreError():
            return CniError(errors.TRY_AGAIN, f"{error}: try again later")
        case CalicoError():
            return CniError(errors.GENERAL, str(error))
    program = "Calico CNI" if command in {"ADD", "DEL"} else "Calico"
    stack = "".join(traceback.format_exception(error))
    return CniError(errors.GENERAL, f"{program} panicked during {command}: {error!r}", stack)


def version_answer() -> bytes:
    """The answer to VERSION: one line."""
    document = {"cniVersion": versions.NEWEST, "supportedVersions": list(versions.SUPPORTED)}
    return (json.dumps(document, separators=(",", ":")) + "\n").encode()


def about(program: str) -> bytes:
    """What a call without a command prints on stderr."""
    name = "Calico CNI plugin" if program == "calico" else "Calico CNI IPAM"
    return f"{name} {versions.PLUGIN}\nCNI protocol versions supported: {', '.join(versions.SUPPORTED)}\n".encode()


def _lines(notes: Sequence[str]) -> bytes:
    return "".join(f"{escaped(note)}\n" for note in notes).encode("utf-8", "replace")
