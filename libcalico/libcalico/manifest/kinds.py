"""The kinds that a user may write, in a file or on a command line."""

from __future__ import annotations

from typing import Any

from libcalico.model import KINDS, kind_of_word
from libcalico.model.base import API_VERSION
from libcalico.model.resources import STRUCTS

TYPED = tuple(sorted(kind for kind in STRUCTS if KINDS[kind].words))
"""The others are written by programs only, as upstream has it."""
KINDS_ARE = f"the kinds are: {', '.join(TYPED)}"


def kind_advice(document: dict[str, Any]) -> str:
    """What is wrong with the kind or the version of a document; "" when both are known."""
    kind, version = document.get("kind"), document.get("apiVersion")
    if not kind:
        return f"kind is missing; {KINDS_ARE}"
    if kind not in TYPED:
        if kind in STRUCTS:
            return f"{kind} is for programs: write it with libcalico's Client; {KINDS_ARE}"
        meant = kind_of_word(kind) if isinstance(kind, str) else None
        return f"kind: write {meant}" if meant in TYPED else f"there is no such kind; {KINDS_ARE}"
    return "" if version == API_VERSION else f"apiVersion: write {API_VERSION}"
