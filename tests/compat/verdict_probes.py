"""What a probe of the packet verdicts is, whoever plays it (vectors/VERDICTS.md)."""

from __future__ import annotations

from typing import Any

from libcalico.model.keys import ResourceKey, key_path
from libcalico.model.kinds import KINDS
from libcalico.policy.compile import PROTOCOLS

Probe = dict[str, Any]


def protocol_of(probe: Probe) -> int:
    """The IP protocol of a probe."""
    word = str(probe["proto"])
    if word in ("icmp", "icmpv6"):
        return 1 if probe["family"] == 4 else 58
    return PROTOCOLS[word] if word in PROTOCOLS else int(word)


def verdict_of(probe: Probe) -> bool:
    """Whether the probe has to get through."""
    return bool({**probe, **probe.get("ours", {})}["allowed"])


def stored_key(resource: dict[str, Any]) -> str:
    """Where a resource is stored."""
    kind, metadata = resource["kind"], resource["metadata"]
    namespace = metadata.get("namespace", "") if kind in KINDS and KINDS[kind].namespaced else ""
    return key_path(ResourceKey(kind, metadata["name"], namespace))
