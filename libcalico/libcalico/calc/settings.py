"""Which FelixConfigurations count for a node, and what they say together (spec/felix-config.md 1). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from libcalico import selector
from libcalico.config import did_you_mean
from libcalico.model.felix_fields import FIELDS, parameter_name
from libcalico.model.resources import FelixConfiguration
from libcalico.text import shown

CLUSTER = "default"
NODE_PREFIX = "node."
SELECTOR = "nodeSelector"
ANNOTATION = "config.projectcalico.org/"
"""What follows in an annotation's name is a parameter, and its value what counts, before the member of `spec`."""
_MEMBERS = {parameter_name(member).lower(): member for member in FIELDS if member != SELECTOR}


class Settings:
    """Settings of one node. From weak to strong: the cluster's, one that selects the node by its labels, its own."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._found: dict[str, FelixConfiguration] = {}
        self.labels: Mapping[str, str] = {}
        """The Node's labels."""
        self._sent: dict[str, str] | None = None

    def update(self, name: str, found: FelixConfiguration | None) -> None:
        """A FelixConfiguration is new, changed or gone."""
        if found is None:
            self._found.pop(name, None)
        else:
            self._found[name] = found

    @property
    def count(self) -> int:
        """FelixConfigurations."""
        return len(self._found)

    def has(self, name: str) -> bool:
        """Is there a FelixConfiguration of this name?"""
        return name in self._found

    def merged(self) -> dict[str, str]:
        """Values as text, by the JSON name or, where there is none, by the parameter's."""
        values: dict[str, str] = {}
        for found in self._ranked():
            values.update({name: _text(value) for name, value in found.spec.items() if name != SELECTOR})
            values.update(_annotated(found.metadata.annotations))
        return values

    def flush(self) -> dict[str, str] | None:
        """The merged values, when they are others than at the last flush."""
        merged = self.merged()
        if merged == self._sent:
            return None
        self._sent = merged
        return merged

    def _ranked(self) -> Iterator[FelixConfiguration]:
        chosen = [found for name, found in self._found.items() if self._selects(name, found)]
        oldest = min(chosen, key=lambda one: (one.metadata.creation_timestamp or "", one.metadata.name), default=None)
        for candidate in (self._found.get(CLUSTER), oldest, self._found.get(NODE_PREFIX + self._host)):
            if candidate is not None:
                yield candidate

    def _selects(self, name: str, found: FelixConfiguration) -> bool:
        """Those of other names count where their selector matches; without one, or with a bad one, nowhere."""
        text = found.spec.get(SELECTOR)
        if name == CLUSTER or name.startswith(NODE_PREFIX) or not isinstance(text, str) or not text:
            return False
        try:
            return selector.parse(text).evaluate(self.labels)
        except selector.SelectorError:
            return False


def strange_members(value: bytes) -> str:
    """What a stored FelixConfiguration sets that no parameter is called, in words; empty when there is nothing."""
    spec = next((found for name, found in msgspec.json.decode(value).items() if name.lower() == "spec"), None)
    known = {name.lower() for name in FIELDS}
    strange = sorted(name for name in spec or {} if name.lower() not in known)
    if not strange:
        return ""
    meant = did_you_mean(strange[0], FIELDS)
    more = f", nor are {len(strange) - 1} more" if len(strange) > 1 else ""
    return f"spec.{shown(strange[0])} is no setting{f' (did you mean {meant}?)' if meant else ''}{more}"


def _annotated(annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Parameters that annotations set, under their member's name where they have one; an empty value sets nothing."""
    for key, text in annotations.items():
        name = key.removeprefix(ANNOTATION)
        if name != key and text.strip():
            yield _MEMBERS.get(name.lower(), name), text


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)
