"""What `nft list` prints, without what differs between two tables that mean the same."""

from __future__ import annotations

import re

COUNTED = re.compile(r"counter packets \d+ bytes \d+")
NUMBERED = re.compile(r"((?:\tset |@)[^\s/]+)/\d+")


def normal(listing: str) -> list[str]:
    """A listing without counters, the numbers behind sets' names, and the order in which chains and sets were made."""
    text = NUMBERED.sub(r"\1", COUNTED.sub("counter", listing)).replace("\n\t\t     ", " ")
    blocks = re.split(r"\n(?=\t(?:chain|set|map) )", text)
    return sorted(re.sub(r"elements = \{ (.*) \}", _sorted_elements, block).strip("\n}") for block in blocks)


def _sorted_elements(match: re.Match[str]) -> str:
    return "elements = " + ", ".join(sorted(re.split(r",\s+", match.group(1))))
