"""nftables through libnftables in our own process: no fork, one kept handle, whole batches as text or JSON.

`Nft.run` blocks (a batch of thousands of commands takes tens of milliseconds) and releases the interpreter lock
meanwhile: the agent calls it in a one-thread executor. One thread at a time per `Nft`. All commands of one call
are one transaction: all of them, or none.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from functools import cache
from typing import Any, Self

from libcalico.kernel import netns
from libcalico.kernel.errors import KernelError

_OUTPUT_JSON = 1 << 4
_OUTPUT_HANDLE = 1 << 3
_OUTPUT_NUMERIC_ALL = (1 << 6) | (1 << 7) | (1 << 8) | (1 << 9)
_PLACE = re.compile(r"^[^:\n]*:(\d+):(\d+)-\d+: (?:Error: )?(.*)$", re.MULTILINE)


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


class NftError(KernelError):
    """libnftables or the kernel refused a batch; `line` of the batch is to blame (0 = unknown)."""

    def __init__(self, text: str, line: int, command: str) -> None:
        self.line = line
        self.command = command
        self.text = text
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
        return self._run(text, 0, check_only)

    def run_json(self, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run commands in libnftables' JSON form (the list inside `nftables`); the objects that it answers with."""
        answer = self._run(
            json.dumps({"nftables": commands}), _OUTPUT_JSON | _OUTPUT_HANDLE | _OUTPUT_NUMERIC_ALL, False
        )
        if not answer:
            return []
        items: list[dict[str, Any]] = json.loads(answer)["nftables"]
        return [item for item in items if "metainfo" not in item]

    def list_json(self, what: str) -> list[dict[str, Any]]:
        """The objects that `nft -j list <what>` shows, without the head; [] when they do not exist."""
        try:
            answer = self._run(f"list {what}", _OUTPUT_JSON | _OUTPUT_HANDLE | _OUTPUT_NUMERIC_ALL, False)
        except NftError as error:
            if "No such file" in error.text:
                return []
            raise
        items: list[dict[str, Any]] = json.loads(answer)["nftables"] if answer else []
        return [item for item in items if "metainfo" not in item]

    def _run(self, text: str, flags: int, check_only: bool) -> str:
        library, context = self._library, self._context
        library.nft_ctx_output_set_flags(context, flags)
        library.nft_ctx_set_dry_run(context, check_only)
        failed = library.nft_run_cmd_from_buffer(context, text.encode())
        output = library.nft_ctx_get_output_buffer(context) or b""
        if failed:
            report = (library.nft_ctx_get_error_buffer(context) or b"").decode("utf-8", "replace")
            raise self._locate(text) or NftError(report.strip().removeprefix("Error: ") or "unknown error", 0, "")
        return bytes(output).decode("utf-8", "replace")

    def _locate(self, text: str) -> NftError | None:
        """The error of a refused batch with its line: only batches from files have lines, so it is checked as one."""
        descriptor = os.memfd_create("nft")
        try:
            os.write(descriptor, text.encode())
            self._library.nft_ctx_set_dry_run(self._context, True)
            if not self._library.nft_run_cmd_from_filename(self._context, f"/proc/self/fd/{descriptor}".encode()):
                return None
            self._library.nft_ctx_get_output_buffer(self._context)
            report = self._library.nft_ctx_get_error_buffer(self._context) or b""
            return _parse_error(report.decode("utf-8", "replace"), text)
        finally:
            os.close(descriptor)


def _parse_error(report: str, batch: str) -> NftError | None:
    place = _PLACE.search(report)
    if place is None:
        return None
    number = int(place[1])
    lines = batch.splitlines()
    command = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return NftError(place[3].strip(), number, command[:200])
