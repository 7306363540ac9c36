"""Is a text a regular expression to Go (RE2)? By translation to Python's, which is richer in some places, poorer in
others; look-around, back references and repeats over 1000 are what RE2 refuses."""

from __future__ import annotations

import re

_REFUSED = re.compile(r"\(\?(=|!|<=|<!|>|\(|#)|\\[1-9]|[*+?}]\+")
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_MOST_REPEATS = 1000
_TRANSLATIONS = (
    (re.compile(r"\\\\"), "x"),
    (re.compile(r"\(\?<(?=[A-Za-z_])"), "(?P<"),
    (re.compile(r"\\[pP](\{\^?\w+\}|[A-Z])"), "x"),
    (re.compile(r"\[:\^?\w+:\]"), "x"),
    (re.compile(r"\\Q.*?(\\E|$)"), "x"),
    (re.compile(r"\\z"), "$"),
    (re.compile(r"\(\?[imsU]*(-[imsU]+)?\)"), ""),
    (re.compile(r"\(\?[imsU]*(-[imsU]+)?:"), "(?:"),
)


def is_go_regex(text: str) -> bool:
    """True if Go's `regexp.Compile` takes it."""
    for pattern, replacement in _TRANSLATIONS:
        text = pattern.sub(replacement, text)
    if _REFUSED.search(text):
        return False
    if any(int(bound or "0") > _MOST_REPEATS for repeat in _REPEAT.finditer(text) for bound in repeat.groups()):
        return False
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True
