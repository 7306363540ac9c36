"""Go's regular expressions, by RE2, whose grammar Go's `regexp` shares and whose search takes linear time.

Known differences, each a text that nobody writes: Go refuses `\\C`, groups 1000 deep and a repeat count of 20 digits,
which RE2 takes; Go since 1.25 takes the names of Unicode classes in any case and categories by their long names
(`\\p{letter}`), which RE2 refuses, as Go did before; and Go takes a text of any length.
"""

from __future__ import annotations

from collections.abc import Callable

LONGEST = 4096
"""Octets. RE2 reads a pattern of 100,000 Unicode classes for 16 s."""


def go_search(pattern: str) -> Callable[[str], object]:
    """Go's unanchored search; raises ValueError, with the reason, for what Go's parser refuses and beyond `LONGEST`."""
    import re2  # late: few programs meet a pattern, and the engine takes 3.5 MB

    if len(pattern) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} characters")
    options = re2.Options()
    options.log_errors = False
    try:
        search: Callable[[str], object] = re2.compile(pattern, options=options).search
    except UnicodeEncodeError:
        raise ValueError("holds half a character") from None
    except re2.error as error:
        reason = error.args[0]
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
    return search


def is_go_regex(text: str) -> bool:
    """Whether `go_search` takes `text`."""
    try:
        go_search(text)
    except ValueError:
        return False
    return True
