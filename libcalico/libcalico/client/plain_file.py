"""Files of the one form that nearly all CalicoAPIConfig files have, read without YAML, which takes longer to load than
what most commands do. What is not certainly read as YAML reads it is left to YAML.

    apiVersion: projectcalico.org/v3
    kind: CalicoAPIConfig
    metadata:
    spec:
      datastoreType: "etcdv3"
      etcdEndpoints: http://10.0.0.1:2379,http://10.0.0.2:2379
"""

from __future__ import annotations

import re
from typing import Any

LINE = re.compile(r"""(  )?([A-Za-z][A-Za-z0-9]{0,60}):(?: ([A-Za-z/][A-Za-z0-9_./:,@+=-]*|"[^"\\]*"|'[^']*'))?""")
"""Indentation, name, value: text without spaces, or in quotes, without escapes."""
PRINTABLE = re.compile(r"[\n -~]*")
WORDS = frozenset(("y", "yes", "on", "true", "n", "no", "off", "false", "null"))
"""What YAML reads as something else than text, in any case."""


def read(content: bytes) -> dict[str, Any] | None:
    """What YAML would read; None where only YAML knows."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        return None
    if not PRINTABLE.fullmatch(text):
        return None
    document: dict[str, Any] = {}
    outer = ""
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if found is None:
            return None
        indented, name, written = found.groups()
        value = None if written is None else _text(written)
        if written is not None and value is None:
            return None
        if not indented:
            outer, inside = name, document
        elif outer and (document[outer] is None or isinstance(document[outer], dict)):
            inside = document[outer] = document[outer] or {}
        else:
            return None
        if name in inside or name.lower() in WORDS:
            return None
        inside[name] = value
    return document or None


def _text(written: str) -> str | None:
    if written[0] in "\"'":
        return written[1:-1]
    return None if written.endswith(":") or written.lower() in WORDS else written
