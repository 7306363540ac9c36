"""What is wrong with container ids and network names that cannot be part of names in the datastore. Pure.

The error keeps upstream's lines (scripts read field and reason); what a person needs stands in a line's value.
"""

from __future__ import annotations

import re

from libcalico.errors import FieldError, ValidationError

LONGEST_NETWORK = 63
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_RULE = "only lower case letters and digits are allowed, with - and . between them"
_ID_FIELDS = ("Metadata.Name", "ContainerID")
_NETWORK_FIELDS = ("Metadata.Name", "Name", "Profiles[0]", "LabelsToApply")
_SHOWN = 80


def explain(error: ValidationError, container_id: str, network: str) -> ValidationError:
    """The same error, with the cause and the way out in the last line that it concerns."""
    is_long = any(found.field in _ID_FIELDS and "too long" in found.reason for found in error.fields)
    if is_long or not _NAME.fullmatch(container_id):
        rule = "it is too long for the name of an endpoint" if is_long else _RULE
        hint = f"container id {container_id[:_SHOWN]}: {rule}: start the container under another id"
        return _with_hint(error, _ID_FIELDS, hint)
    if len(network) > LONGEST_NETWORK or not _NAME.fullmatch(network):
        hint = f"network name {network[:_SHOWN]}: {_RULE}, at most {LONGEST_NETWORK}: rename it in the configuration"
        return _with_hint(error, _NETWORK_FIELDS, hint)
    return error


def _with_hint(error: ValidationError, fields: tuple[str, ...], hint: str) -> ValidationError:
    places = [place for place, found in enumerate(error.fields) if found.field in fields]
    if not places:
        return error
    changed = list(error.fields)
    field, value, reason = changed[places[-1]]
    changed[places[-1]] = FieldError(field, f"{value}; {hint}" if value else hint, reason)
    return ValidationError(changed)
