"""What the client checks of a BGPPeer against the rest of the cluster (spec/resources.md 7.3)."""

from __future__ import annotations

from collections.abc import Sequence

from libcalico.datastore.contract import KeyValue
from libcalico.errors import FieldError
from libcalico.model.bgp import BGPPeer
from libcalico.model.keys import ResourceKey, key_path
from libcalico.model.validation.rules import go_list


def missing_filters(peer: BGPPeer, stored: Sequence[KeyValue]) -> list[FieldError]:
    """The error that names the filters that are not there; it comes before, and instead of, those of validation.

    `stored` are the pairs of those that are."""
    there = {kv.key for kv in stored}
    missing = [name for name in peer.spec.filters if filter_path(name) not in there]
    if not missing:
        return []
    return [FieldError("BGPPeer.Spec.Filters", go_list(missing), "BGPFilter(s) not found")]


def filter_path(name: str) -> bytes:
    """Where a filter is stored; nothing is under a name that is no Unicode."""
    return key_path(ResourceKey("BGPFilter", name)).encode("utf-8", "surrogatepass")
