"""One CNI call from its environment and stdin to what the program prints: used by the agent and by the fallback."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Awaitable, Callable

from libcalico.errors import CalicoError, DatastoreError
from libcalico.workload.attach import InterfaceExists
from libcalico.workload.cni import check, errors, verbs, versions
from libcalico.workload.cni.add import add
from libcalico.workload.cni.context import CALL_TIMEOUT_S
from libcalico.workload.cni.delete import delete
from libcalico.workload.cni.errors import CniError
from libcalico.workload.cni.request import Call, CniAnswer, CniRequestData, parse_request
from libcalico.workload.cni.result import render_json
from libcalico.workload.cni.services import VERSION, Services

_log = logging.getLogger(__name__)

Verb = Callable[[Call, Services, list[str]], Awaitable[bytes]]
VERBS: dict[tuple[str, str], Verb] = {
    ("calico", "ADD"): add,
    ("calico", "DEL"): delete,
    ("calico", "CHECK"): check.check,
    ("calico", "GC"): verbs.collect_garbage,
    ("calico", "STATUS"): verbs.status,
    ("calico-ipam", "ADD"): verbs.ipam_add,
    ("calico-ipam", "DEL"): verbs.ipam_delete,
    ("calico-ipam", "CHECK"): check.check_addresses,
    ("calico-ipam", "GC"): verbs.ipam_collect_garbage,
    ("calico-ipam", "STATUS"): verbs.status,
}
PROGRAMS = ("calico", "calico-ipam")


async def handle(request: CniRequestData, services: Services) -> CniAnswer:
    """Answer one call. Never raises, except when it is cancelled: every failure is an answer."""
    command = request.environment.get("CNI_COMMAND", "")
    notes: list[str] = []
    if request.program not in PROGRAMS:
        return CniAnswer(1, b"", f"Unknown binary name: {request.program}\n".encode())
    if not command:
        return CniAnswer(0, b"", about(request.program))
    if command == "VERSION":
        return CniAnswer(0, version_answer())
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            call = parse_request(request)
            stdout = await VERBS[call.program, call.command](call, services, notes)
        return CniAnswer(0, stdout, _lines(notes))
    except Exception as error:
        failure = explain(error, command)
        _log.warning("cni %s %s: %s", command, request.environment.get("CNI_CONTAINERID", ""), failure)
        notes.append(f"Final result of CNI {command} was an error: {failure}")
        return CniAnswer(1, render_json(failure.to_object()), _lines(notes))


def explain(error: Exception, command: str) -> CniError:
    """Any failure as the error object that the caller gets."""
    match error:
        case CniError():
            return error
        case InterfaceExists():
            return CniError(errors.GENERAL, "file exists", str(error))
        case TimeoutError():
            return CniError(errors.TRY_AGAIN, f"not finished in {CALL_TIMEOUT_S:.0f} s: try again later")
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
    return f"{name} {VERSION}\nCNI protocol versions supported: {', '.join(versions.SUPPORTED)}\n".encode()


def _lines(notes: list[str]) -> bytes:
    return "".join(f"{note}\n" for note in notes).encode("utf-8", "replace")
