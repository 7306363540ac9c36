"""Which requests may be made again without being carried out twice (docs/adr/0012)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from libcalico.datastore.contract import Compare, Delete, Get, Operation, Put, Target

NOT_DONE = ("failed to connect", "raft proposal dropped", "etcdserver: no leader", "etcdserver: too many requests")
"""What is said of a request that certainly changed nothing."""


class Guard(NamedTuple):
    """A key that a transaction writes, and the revision after which it was not written before (0: it was absent)."""

    put: Put
    since: int


def guard_of(compares: Sequence[Compare], success: Sequence[Operation]) -> Guard | None:
    """What makes a transaction one that can be carried out once only, if it is one."""
    if any(isinstance(operation, Get) or (isinstance(operation, Delete) and operation.prefix) for operation in success):
        return None
    absent = {compare.key for compare in compares if compare.target is not Target.VALUE and compare.value == 0}
    revisions = {compare.key: int(compare.value) for compare in compares if compare.target is Target.MOD_REVISION}
    for operation in success:
        if isinstance(operation, Put) and (operation.key in absent or operation.key in revisions):
            return Guard(operation, revisions.get(operation.key, 0))
    return None
