"""The error families of the whole project: who is at fault decides what happens next.

* `BadData`: a user, a peer or the datastore handed us something wrong. The object is treated as absent, or
  the request is refused, naming the object, the field and the value. Never retried as it is.
* `Unavailable`: something that we need is away (etcd, the agent, the kernel is busy). Work stays dirty and is
  retried with back-off.
* `Bug`: an invariant of ours is broken. The process ends; a restart must be safe at any instant.

Foreign exceptions are mapped to these once, in the module that stands at that boundary. The texts of the
datastore errors follow upstream word for word (spec/datastore.md section 10): scripts match on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from libcalico.text import shown


class CalicoError(Exception):
    """Base of every error that this project raises on purpose."""


class BadData(CalicoError):
    """Input that is wrong and stays wrong: refused or treated as absent."""


class Unavailable(CalicoError):
    """A neighbour (etcd, agent, kernel) cannot answer now: retry with back-off."""


class Bug(CalicoError):
    """A broken invariant of our own code: the process must end."""


class DatastoreError(Unavailable):
    """A transport or server error of the datastore; the text is that of the cause."""


class Unreachable(DatastoreError):
    """No endpoint of the datastore was reached in the time that there was; the text says what to do for each."""


class ConnectionUnauthorized(DatastoreError):
    """The datastore refused our credentials."""

    def __init__(self, cause: object) -> None:
        super().__init__(f"connection is unauthorized: {cause}")


class ResourceDoesNotExist(CalicoError):
    """The object is not there. `identifier` prints like `Kind(namespace/name)`."""

    def __init__(self, identifier: object, cause: object = None) -> None:
        self.identifier = identifier
        super().__init__(f"resource does not exist: {identifier} with error: {_go(cause)}")


class ResourceAlreadyExists(CalicoError):
    """The object is already there; `existing` holds it when the datastore handed it back."""

    def __init__(self, identifier: object, cause: object = None, existing: object = None) -> None:
        self.identifier = identifier
        self.existing = existing
        super().__init__(f"resource already exists: {identifier} with error: {_go(cause)}")


class ResourceUpdateConflict(CalicoError):
    """Another writer was first; `existing` holds the current object when known."""

    def __init__(self, identifier: object, existing: object = None) -> None:
        self.identifier = identifier
        self.existing = existing
        super().__init__(f"update conflict: {identifier}")


class OperationNotSupported(BadData):
    """The operation makes no sense on this object."""

    def __init__(self, operation: str, identifier: object, reason: str = "") -> None:
        self.identifier = identifier
        text = f"operation {operation} is not supported on {identifier}"
        super().__init__(f"{text}: {reason}" if reason else text)


class FieldError(NamedTuple):
    """One bad field: `Name = 'value' (reason)`; `value` None means that there is no value at all."""

    field: str
    value: str | None
    reason: str

    def __str__(self) -> str:
        text = self.field if self.value is None else f"{self.field} = '{self.value}'"
        return f"{text} ({self.reason})" if self.reason else text


class ValidationError(BadData):
    """An object broke the rules of its kind; `fields` lists every bad field in upstream's order."""

    def __init__(self, fields: Sequence[FieldError]) -> None:
        self.fields = tuple(fields)
        if len(self.fields) == 1:
            text = f"error with field {self.fields[0]}"
        else:
            text = "error with the following fields:\n" + "".join(f"-  {field}\n" for field in self.fields)
        super().__init__(text)


class InsufficientIdentifiers(BadData):
    """A name that the operation needs is missing."""

    def __init__(self, name: str) -> None:
        super().__init__(f"insufficient identifiers, missing '{name}'")


class ParsingDatastoreEntry(BadData):
    """A stored value that cannot be read as its kind; `cause` says why."""

    def __init__(self, key: str, value: bytes, cause: object) -> None:
        self.cause = shown(cause)
        super().__init__(f"failed to parse datastore entry key={shown(key)}; value={shown(value)}: {self.cause}")


class PartialFailure(CalicoError):
    """Several steps were asked for, some of them failed."""

    def __init__(self, cause: object) -> None:
        super().__init__(f"operation partially failed: {cause}")


def _go(cause: object) -> object:
    return "<nil>" if cause is None else cause
