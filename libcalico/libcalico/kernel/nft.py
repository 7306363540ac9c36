"""nftables through libnftables in our own process: no fork, one kept handle, whole batches as text.

`Nft.run` blocks (a batch of thousands of commands takes tens of milliseconds) and releases the interpreter lock
meanwhile: the agent calls it in a one-thread executor. One thread at a time per `Nft`. All commands of one call
are one transaction: all of them, or none.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Self

from libcalico.kernel import netns
from libcalico.kernel.errors import KernelError

_OUTPUT_JSON = 1 << 4
_OUTPUT_HANDLE = 1 << 3
_OUTPUT_NUMERIC_ALL = (1 << 6) | (1 << 7) | (1 << 8) | (1 << 9)
_PLACE = re.compile(r"^/proc/self/fd/\d+:(\d+):\d+-\d+: (?:Error: )?(.*)$", re.MULTILINE)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise KernelError("load libnftables.so.1", 0, str(error)) from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    library.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
    library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_output_buffer.argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_run_cmd_from_filename.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


class Refusal(NamedTuple):
    """A command of a batch that was refused: its line, its first 200 characters, and why."""

    line: int
    command: str
    text: str


class NftError(KernelError):
    """libnftables or the kernel refused a batch; `line` of the batch is to blame (0 = unknown). `refusals` are all
    commands that were: every one when the kernel refused, at most ten when libnftables did."""

    def __init__(self, text: str, line: int, command: str, refusals: Sequence[Refusal] = ()) -> None:
        self.line = line
        self.command = command
        self.text = text
        self.refusals = list(refusals) or ([Refusal(line, command, text)] if command else [])
        super().__init__(f"nft {command!r}" if command else "nft", 0, text)


class Nft:
    """A libnftables handle that works in our network namespace, or in the one at `netns_path`, for its whole life."""

    def __init__(self, netns_path: str = "") -> None:
        self._library = _library()
        with netns.entered(netns_path):
            context = self._library.nft_ctx_new(0)
        if not context:
            raise KernelError("open libnftables")
        self._context = ctypes.c_void_p(context)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Give the handle back; twice is fine."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = ctypes.c_void_p(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def run(self, text: str, *, check_only: bool = False) -> str:
        """Run commands as `nft -f` would, in one transaction; what `list` commands print. Raises `NftError`.

        `check_only` asks the kernel too, but changes nothing."""
        descriptor = os.memfd_create("nft")  # errors of a file have lines, those of a buffer have none
        try:
            with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
                file.write(text + "\n")
            name = f"/proc/self/fd/{descriptor}"
            return self._run(self._library.nft_run_cmd_from_filename, name, 0, check_only, text)
        finally:
            os.close(descriptor)

    def list_json(self, what: str) -> list[dict[str, Any]]:
        """The objects that `nft -j list <what>` shows, without the head; [] when they do not exist."""
        try:
            answer = self._run_text(f"list {what}")
        except NftError as error:
            if "No such file" in error.text:
                return []
            raise
        items: list[dict[str, Any]] = json.loads(answer)["nftables"] if answer else []
        return [item for item in items if "metainfo" not in item]

    def _run_text(self, text: str) -> str:
        flags = _OUTPUT_JSON | _OUTPUT_HANDLE | _OUTPUT_NUMERIC_ALL
        return self._run(self._library.nft_run_cmd_from_buffer, text, flags, False, text)

    def _run(self, run: Callable[..., int], what: str, flags: int, check_only: bool, batch: str) -> str:
        library, context = self._library, self._context
        library.nft_ctx_output_set_flags(context, flags)
        library.nft_ctx_set_dry_run(context, check_only)
        failed = run(context, what.encode())
        output = library.nft_ctx_get_output_buffer(context) or b""
        if failed:
            report = (library.nft_ctx_get_error_buffer(context) or b"").decode("utf-8", "replace")
            raise _parse_error(report, batch) or NftError(
                report.strip().removeprefix("Error: ") or "unknown error", 0, ""
            )
        return bytes(output).decode("utf-8", "replace")


def _parse_error(report: str, batch: str) -> NftError | None:
    lines = batch.splitlines()
    found: dict[int, Refusal] = {}
    for place in _PLACE.finditer(report):
        number = int(place[1])
        command = lines[number - 1].strip()[:200] if 0 < number <= len(lines) else ""
        found.setdefault(number, Refusal(number, command, place[2].strip()[:200]))
    if not found:
        return None
    first = next(iter(found.values()))
    return NftError(first.text, first.line, first.command, list(found.values()))
