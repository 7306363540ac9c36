"""Names that are hashes: of selectors and IP sets, and of kernel objects whose names have a length limit."""

from __future__ import annotations

import base64
import hashlib


def unique_id(prefix: str, content: str) -> str:
    """`prefix:` + URL-safe base64 of SHA-224 over `prefix:content` (spec/selectors.md 6)."""
    digest = hashlib.sha224(f"{prefix}:{content}".encode("utf-8", "surrogatepass")).digest()
    return f"{prefix}:{_text(digest)}"


def length_limited_id(fixed: str, suffix: str, longest: int) -> str:
    """`fixed + suffix`, or a hash in place of the suffix when that would exceed `longest` characters."""
    suffix = suffix or "_"
    length = len(fixed) + len(suffix)
    if length > longest or (length == longest and suffix.startswith("_")):
        return f"{fixed}_{_text(hashlib.sha256(suffix.encode()).digest())[: longest - 1 - len(fixed)]}"
    return fixed + suffix


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
