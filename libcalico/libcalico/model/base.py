"""What every kind's structs are made of: the base struct and the metadata of objects (spec/resources.md 1.1)."""

from __future__ import annotations

from typing import Any

import msgspec

from libcalico.model.wire_types import Int, Time

API_VERSION = "projectcalico.org/v3"


class Struct(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename="camel", gc=False
):
    """A JSON object: members that have their default are left out, unknown ones refused."""


def always(value: Any, name: str | None = None) -> Any:
    """A member that is written even when it has its default; `name` is its JSON name where that is no camel case."""
    return msgspec.field(default_factory=lambda: value, name=name)


class OwnerReference(Struct, frozen=True):
    """What owns an object, as Kubernetes keeps it: stored, and never acted on."""

    api_version: str = always("")
    kind: str = always("")
    name: str = always("")
    uid: str = always("")
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ManagedFields(Struct, frozen=True):
    """Who set which members, as Kubernetes keeps it: stored, and never acted on."""

    manager: str = ""
    operation: str = ""
    api_version: str = ""
    time: Time | None = None
    fields_type: str = ""
    fields_v1: dict[str, Any] | None = msgspec.field(name="fieldsV1", default=None)
    subresource: str = ""


class Metadata(Struct, frozen=True):
    """What every object has (spec/resources.md 1.1). `resource_version` is never stored; `self_link`, which older
    releases printed, is read and dropped."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    self_link: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: Int = 0
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    deletion_grace_period_seconds: Int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []
    finalizers: list[str] = []
    managed_fields: list[ManagedFields] = []
