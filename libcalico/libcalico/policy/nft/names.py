"""What things are called in the table, and the identity that every rule carries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from libcalico.policy.ir import Direction, PolicyId
from libcalico.selector.identity import length_limited_id, unique_id

TABLE = "inet calico"
LONGEST_CHAIN = 120
LONGEST_COMMENT = 128
LONGEST_PART = 40
KIND_WORDS = {"GlobalNetworkPolicy": "gnp", "NetworkPolicy": "np", "Profile": "profile"}
FROM_WORKLOAD = "from-workload"
TO_WORKLOAD = "to-workload"
SAFE = re.compile(r"[A-Za-z0-9/._-]+")
_PREFIXES = {
    ("Profile", Direction.INGRESS): "pri-",
    ("Profile", Direction.EGRESS): "pro-",
    ("", Direction.INGRESS): "pi-",
    ("", Direction.EGRESS): "po-",
}


class Identity(NamedTuple):
    """Which rule of which policy a kernel rule stands for; `text` is its comment, `parse_identity` reads it back.

    `rule` is the 0-based number in the policy, or a word for what is not a rule (`end of tier`, ...)."""

    policy: str
    tier: str
    direction: str
    rule: str

    @property
    def text(self) -> str:
        """`np/default/web|default|ingress|0`, at most 128 bytes."""
        tier = length_limited_id("", safe(self.tier), LONGEST_PART) if self.tier else ""
        tail = f"|{tier}|{self.direction}|{self.rule[:LONGEST_PART]}"
        return length_limited_id("", self.policy, LONGEST_COMMENT - len(tail)) + tail


def parse_identity(comment: str) -> Identity | None:
    """The identity in a rule's comment, None if it has none."""
    parts = comment.split("|")
    return Identity(*parts) if len(parts) == 4 else None


def policy_word(identity: PolicyId) -> str:
    """A policy in one word: `np/default/web`, `gnp/web`, `profile/calico`."""
    place = f"{identity.namespace}/" if identity.namespace else ""
    return f"{KIND_WORDS.get(identity.kind, identity.kind)}/{safe(place + identity.name)}"


def safe(text: str) -> str:
    """The text if it can stand in a command as it is, else a hash of it: stored names are not to be trusted."""
    return text if SAFE.fullmatch(text) else "x_" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]


def policy_chain(identity: PolicyId, direction: Direction) -> str:
    """The chain with a policy's rules of one direction."""
    kind = "Profile" if identity.kind == "Profile" else ""
    suffix = safe(identity.name) if kind else policy_word(identity)
    return length_limited_id(_PREFIXES[(kind, direction)], suffix, LONGEST_CHAIN)


def endpoint_chain(interface: str, direction: Direction, part: int = 0) -> str:
    """The chain of a workload's interface; a tier that follows a Pass has a part of its own."""
    base = ("tw-" if direction is Direction.INGRESS else "fw-") + interface
    return f"{base}/{part}" if part else base


def kernel_set(set_id: str, family: int) -> str:
    """The kernel's name for the part of an IP set that one family needs."""
    return f"ip{family}-{set_id.replace(':', '-')}"


def next_set(called: str) -> str:
    """A further name of a set in the kernel: `x`, `x/1`, `x/2`. Without it, no set's name has a slash."""
    name, _, number = called.partition("/")
    return f"{name}/{int(number or 0) + 1}"


def wanted_set(called: str) -> str:
    """The name that rules and tables know a set by which the kernel knows as `called`."""
    return called.partition("/")[0]


def list_set(prefix: str, entries: Iterable[str]) -> str:
    """The set that holds a list of a rule: equal lists are one set."""
    return unique_id(prefix, ",".join(entries)).replace(":", "-")
