"""create, apply, replace, delete, validate: objects from a file (spec/calicoctl.md 3.2, 3.3)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from calicoctl import cluster, inputs
from calicoctl.failures import several, show_notes
from calicoctl.operands import check_names, is_kubernetes_policy, kind_of, namespace_for, refuse_read_only
from libcalico.errors import (
    CalicoError,
    FieldError,
    OperationNotSupported,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    ResourceUpdateConflict,
    ValidationError,
)
from libcalico.manifest.documents import Loaded
from libcalico.model import KINDS, Resource, defaults
from libcalico.model.validation.hints import hint_for
from libcalico.model.validation.objects import validate as validate_resource

if TYPE_CHECKING:
    from calicoctl.session import Session

NAMES_SHOWN = 100
PARTICIPLES = {"create": "created", "apply": "applied", "replace": "replaced", "validate": "validated"}


class Outcome(NamedTuple):
    """An object of the input, and why it was refused; None when it was not."""

    loaded: Loaded
    error: CalicoError | None


def create(arguments: dict[str, Any]) -> int:
    """Objects that must not exist yet."""
    from libcalico.client.checks import as_new

    def step(client: Session, resource: Resource) -> None:
        metadata = resource.metadata
        refuse_read_only(type(resource).__name__, metadata.name, metadata.namespace, "create or apply")
        try:
            version = resource.metadata.resource_version
            fresh = as_new(resource)
            client.create(_with_version(fresh, version) if version else fresh)
        except ResourceAlreadyExists:
            if not arguments["--skip-exists"]:
                raise

    return _run("create", arguments, step)


def apply(arguments: dict[str, Any]) -> int:
    """Objects that may exist already."""

    def step(client: Session, resource: Resource) -> None:
        if type(resource).__name__ == "ClusterInformation":
            raise OperationNotSupported("apply", "ClusterInformation", "resource is readonly")
        if is_kubernetes_policy(type(resource).__name__, resource.metadata.name):
            _replace_own(client, resource)
        else:
            client.apply(resource)

    return _run("apply", arguments, step)


def replace(arguments: dict[str, Any]) -> int:
    """Objects that must exist."""

    def step(client: Session, resource: Resource) -> None:
        _replace_own(client, resource)

    return _run("replace", arguments, step)


def _replace_own(client: Session, resource: Resource) -> None:
    """Replace what is the user's; a policy of Kubernetes must be there to be refused, as upstream has it."""
    kind, metadata = type(resource).__name__, resource.metadata
    if is_kubernetes_policy(kind, metadata.name):
        client.get(kind, metadata.name, metadata.namespace)
    refuse_read_only(kind, metadata.name, metadata.namespace, "apply or replace")
    client.replace(resource)


def validate(arguments: dict[str, Any]) -> int:
    """No datastore: parse and check only."""
    loaded = inputs.load(arguments)
    if not loaded:
        print("No resources specified")
        return 0

    def check(resource: Resource) -> None:
        found = validate_resource(defaults.before_write(resource))
        if found:
            raise ValidationError(found)

    return _report("validate", [_attempt(one, arguments, check) for one in loaded])


def delete(arguments: dict[str, Any]) -> int:
    """By kind and name, or the objects of a file."""
    resources: list[Resource] = []
    if arguments["--filename"]:
        resources = [loaded.resource for loaded in inputs.load(arguments)]
        if not resources:
            print("No resources specified")
            return 0
        wanted = [
            (type(r).__name__, r.metadata.name, r.metadata.namespace, r.metadata.resource_version) for r in resources
        ]
    else:
        check_names(arguments["<NAME>"])
        kind = kind_of(arguments["<KIND>"])
        wanted = [(kind, name, "", "") for name in arguments["<NAME>"] or [""]]
    with cluster.connect(arguments) as client:
        errors = [(one[3], error) for one in wanted if (error := _delete_one(client, one, arguments)) is not None]
    kinds = {kind for kind, *_ in wanted}
    shown = f"'{kinds.pop()}' " if len(kinds) == 1 else ""
    deleted = len(wanted) - len(errors)
    if deleted:
        print(f"Successfully deleted {deleted} {shown}resource(s)")
    if errors:
        lines = [f"Failed to delete {shown}resource: {error}" for _version, error in errors]
        print("\n".join(lines) + "\n", file=sys.stderr)
        show_notes(note for version, error in errors for note in _version_advice(version, error))
    return 1 if errors else 0


def _delete_one(client: Session, wanted: tuple[str, str, str, str], arguments: dict[str, Any]) -> CalicoError | None:
    kind, name, given, version = wanted
    try:
        namespace = namespace_for(kind, given, arguments)
        if not name:
            raise ValidationError([FieldError(KINDS[kind].words[0], None, "field should be assigned")])
        refuse_read_only(kind, name, namespace, "delete")
        client.delete(kind, name, namespace, version)
    except ResourceDoesNotExist as error:
        return None if arguments["--skip-not-exists"] else error
    except CalicoError as error:
        return error
    return None


def _with_version(resource: Resource, version: str) -> Resource:
    metadata = msgspec.structs.replace(resource.metadata, resource_version=version)
    return msgspec.structs.replace(resource, metadata=metadata)


def _placed(resource: Resource, arguments: dict[str, Any]) -> Resource:
    metadata = resource.metadata
    namespace = namespace_for(type(resource).__name__, metadata.namespace, arguments)
    return msgspec.structs.replace(resource, metadata=msgspec.structs.replace(metadata, namespace=namespace))


def _run(verb: str, arguments: dict[str, Any], step: Callable[[Session, Resource], None]) -> int:
    loaded = inputs.load(arguments)
    if not loaded:
        print("No resources specified")
        return 0
    with cluster.connect(arguments, initialise=True) as client:
        outcomes = [_attempt(one, arguments, lambda resource: step(client, resource)) for one in loaded]
    return _report(verb, outcomes)


def _attempt(loaded: Loaded, arguments: dict[str, Any], step: Callable[[Resource], None]) -> Outcome:
    try:
        step(_placed(loaded.resource, arguments))
    except CalicoError as error:
        return Outcome(loaded, error)
    return Outcome(loaded, None)


def _report(verb: str, outcomes: Sequence[Outcome]) -> int:
    kinds = {type(outcome.loaded.resource).__name__ for outcome in outcomes}
    kind = f"'{kinds.pop()}' " if len(kinds) == 1 else ""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    total, done = len(outcomes), len(outcomes) - len(errors)
    participle = PARTICIPLES[verb]
    if not errors:
        print(f"Successfully {participle} {total} {kind}resource(s)")
        return 0
    partial = f"Partial success: {participle} the first {done} out of {total} {kind}resources:"
    if verb == "replace":
        if done:
            print(partial)
        print(f"hit error: {errors[-1]}", file=sys.stderr)
    elif not done:
        any_of = "any " if total > 1 else ""
        plural = "s" if total > 1 else ""
        print(f"failed to {verb} {any_of}{kind}resource{plural}: {_go_list(errors)}", file=sys.stderr)
    else:
        if done > len(errors):
            print(partial)
        word = "error(s)" if verb in ("apply", "validate") else "error"
        print(f"hit {word}: {_go_list(errors)}", file=sys.stderr)
    show_notes(_notes(participle, outcomes))
    return 1


def _notes(participle: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Each refused object with its place, and the others: upstream's text names neither, and calls whichever succeeded
    "the first". A reason is said again only where several stand there in one line."""
    refused = [(outcome.loaded, outcome.error) for outcome in outcomes if outcome.error is not None]
    notes = []
    for loaded, error in refused:
        reason = str(error).rstrip("\n").replace("\n-  ", "\n  ")
        place = f"{loaded.origin}: {_title(loaded.resource)}"
        notes.append(f"{place}: {reason}" if len(refused) > 1 else place)
        notes += _advice(loaded, error)
        notes += _version_advice(loaded.resource.metadata.resource_version, error)
        notes += _presence_advice(participle, loaded.resource, error)
    done = [_title(outcome.loaded.resource) for outcome in outcomes if outcome.error is None]
    return [*notes, f"{participle}: {several(done, NAMES_SHOWN) or 'nothing'}"]


def _version_advice(version: str, error: CalicoError) -> Iterator[str]:
    """What to do about a `resourceVersion` that came into a file with what `get -o yaml` printed."""
    if version and isinstance(error, ResourceUpdateConflict):
        yield (
            f"  the file's metadata.resourceVersion {version} is not the stored one: the object was changed since it"
            " was fetched. Fetch and edit it again, or delete that line to write over it"
        )
    elif version and any(field.field == "Metadata.ResourceVersion" for field in getattr(error, "fields", ())):
        yield "  delete the line metadata.resourceVersion: only 'apply' and 'replace' take one"
    else:
        return
    yield "  ('calicoctl get <KIND> <NAME> --export -o yaml' prints an object without it)"


def _presence_advice(participle: str, resource: Resource, error: CalicoError) -> Iterator[str]:
    """What to do about an object that is there, or is not."""
    if isinstance(error, ResourceAlreadyExists):
        yield "  'apply' changes what is there, --skip-exists leaves it as it is"
    elif isinstance(error, ResourceDoesNotExist) and not str(error.identifier).startswith(type(resource).__name__):
        yield "  spec.tier names a tier that is not there: create it first, or leave spec.tier out for the default one"
    elif isinstance(error, ResourceDoesNotExist) and participle == PARTICIPLES["replace"]:
        yield "  'apply' creates what is not there"


def _advice(loaded: Loaded, error: CalicoError) -> Iterator[str]:
    """What would be right, for each bad field of which that is known; equal ones stand in the document's order."""
    seen: Counter[tuple[str, str | None]] = Counter()
    for field in error.fields if isinstance(error, ValidationError) else ():
        if text := hint_for(field):
            member = field.field.partition("[")[0]
            lines, count = loaded.placed.lines_of_value(member, field.value or ""), seen[member, field.value]
            place = f"line {lines[count]}: " if count < len(lines) else ""
            seen[member, field.value] += 1
            yield f"  {place}{field.field} {field.value!r}: {text}"


def _title(resource: Resource) -> str:
    metadata = resource.metadata
    namespace = f"{metadata.namespace}/" if metadata.namespace else ""
    return f"{type(resource).__name__}({namespace}{metadata.name or 'without a name'})"


def _go_list(errors: Iterable[object]) -> str:
    return "[" + " ".join(str(error) for error in errors) + "]"
