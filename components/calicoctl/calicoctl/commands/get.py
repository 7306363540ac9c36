"""get: objects by kind, name or file, in every format (spec/calicoctl.md 4)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from calicoctl import cluster
from calicoctl.failures import CommandFailed, failed_by, several, show_notes
from calicoctl.operands import check_names, kind_of, namespace_for
from calicoctl.output import tables
from calicoctl.session import Session
from libcalico.errors import BadData, CalicoError, ParsingDatastoreEntry, ResourceDoesNotExist
from libcalico.model import API_VERSION, KINDS, to_json

EXPORT_REMOVES = ("namespace", "uid", "resourceVersion", "creationTimestamp", "generation", "ownerReferences")
DOCUMENTS = ("yaml", "yml", "json")


class Group(NamedTuple):
    """What one request brought: objects of one kind; `revision` is None unless it was a list. `unreadable` are the keys
    of stored ones that cannot be read."""

    kind: str
    items: list[dict[str, Any]]
    revision: int | None = None
    unreadable: tuple[str, ...] = ()


def run(arguments: dict[str, Any]) -> int:
    """Print what is found; what is missing is named on stderr."""
    output = arguments["--output"]
    _check_format(output)
    requests = _requests(arguments)
    with cluster.connect(arguments) as client:
        groups, missing = _fetch(client, requests, arguments)
        if any(group.kind == "Node" for group in groups) and output not in ("ps", *DOCUMENTS):
            _add_global_as_number(client, groups)
    text = _render(groups, output, arguments, bool(missing))
    sys.stdout.write(text)
    for problem in missing:
        print(problem, file=sys.stderr)
    show_notes(note for group in groups for note in unreadable_notes(group.kind, group.unreadable))
    return 1 if missing else 0


def unreadable_notes(kind: str, keys: Sequence[str]) -> Iterator[str]:
    """What is stored and not shown, because it cannot be read."""
    if keys:
        yield f"{len(keys)} stored {kind} cannot be read, not shown: {several(keys)}"


def _check_format(output: str) -> None:
    name, equals, rest = output.partition("=")
    if name == "custom-columns":
        if not rest:
            raise CommandFailed("need to specify at least one column")
    elif name in ("go-template", "go-template-file"):
        what = "template file" if name.endswith("file") else "template"
        if not rest:
            raise CommandFailed(f"need to specify a {what}")
        raise CommandFailed(f"output format '{name}' is not supported: use -o json with a JSON tool, or custom-columns")
    elif equals or name not in ("ps", "wide", *DOCUMENTS):
        failure = CommandFailed(f"unrecognized output format '{output}'")
        failure.add_note(f"the formats are: {', '.join(('ps', 'wide', *DOCUMENTS))}, custom-columns=...")
        raise failure


def _requests(arguments: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(kind, name, namespace) of everything that is asked for; an empty name is a list."""
    if arguments["--filename"]:
        from calicoctl import inputs

        resources = [loaded.resource for loaded in inputs.load(arguments)]
        found = [(type(r).__name__, r.metadata.name, r.metadata.namespace) for r in resources]
    else:
        try:
            check_names(arguments["<NAME>"])
            kind = kind_of(arguments["<KIND>"])
        except BadData as error:
            raise failed_by(error, f"failed to get resources: {error}") from None
        found = [(kind, name, "") for name in arguments["<NAME>"]] or [(kind, "", "")]
    return [(kind, name, _place(kind, name, given, arguments)) for kind, name, given in found]


def _place(kind: str, name: str, given: str, arguments: dict[str, Any]) -> str:
    namespace = namespace_for(kind, given, arguments)
    everywhere = arguments["--all-namespaces"] or arguments["-a"]
    if everywhere and name and not given:
        raise CommandFailed("cannot use --all-namespace flag for getting a single resource")
    return "" if everywhere and not given else namespace


def _fetch(
    client: Session, requests: list[tuple[str, str, str]], arguments: dict[str, Any]
) -> tuple[list[Group], list[CalicoError]]:
    groups: list[Group] = []
    missing: list[CalicoError] = []
    for kind, name, namespace in requests:
        try:
            groups.append(_fetch_one(client, kind, name, namespace))
        except (ResourceDoesNotExist, ParsingDatastoreEntry) as error:
            missing.append(error)
        except CalicoError as error:
            raise CommandFailed(f"failed to get resources: {error}") from None
    if arguments["--export"]:
        groups = [
            group._replace(items=[_exported(item) for item in group.items]) if group.revision is None else group
            for group in groups
        ]
    return groups, missing


def _fetch_one(client: Session, kind: str, name: str, namespace: str) -> Group:
    if name and (namespace or not KINDS[kind].namespaced):
        return Group(kind, [to_json(client.get(kind, name, namespace))])
    found = client.list_at_revision(kind, namespace)
    items = [to_json(item) for item in found.items]
    if name:
        return Group(kind, [item for item in items if item["metadata"]["name"] == name], None, found.unreadable)
    return Group(kind, items, found.revision, found.unreadable)


def _exported(item: dict[str, Any]) -> dict[str, Any]:
    metadata = {name: value for name, value in item["metadata"].items() if name not in EXPORT_REMOVES}
    return {**item, "metadata": metadata}


def _add_global_as_number(client: Session, groups: list[Group]) -> None:
    """What a node without an AS number of its own has: the cluster's, if it is set."""
    number = client.spec_member("BGPConfiguration", "default", "asNumber")
    if number is not None:
        for group in groups:
            for item in group.items:
                item["globalASNumber"] = str(number)


def _render(groups: list[Group], output: str, arguments: dict[str, Any], missing: bool) -> str:
    if output in DOCUMENTS:
        return _documents(groups, output)
    text = ""
    for group in groups:
        text += tables.render(group.kind, _columns(group.kind, output, arguments), group.items)
    return text


def _columns(kind: str, output: str, arguments: dict[str, Any]) -> list[str]:
    table = tables.TABLES[kind]
    if output.startswith("custom-columns="):
        wanted = output.partition("=")[2].split(",")
        known = tables.headings(kind, KINDS[kind].namespaced)
        for heading in wanted:
            if heading not in known:
                raise CommandFailed(f"unknown heading {heading}, valid values are: {', '.join(known)}")
        return wanted
    columns = list(table.wide if output == "wide" else table.ps)
    shows_namespace = arguments["--namespace"] or arguments["--all-namespaces"] or arguments["-a"]
    return ["NAMESPACE", *columns] if KINDS[kind].namespaced and shows_namespace else columns


def _documents(groups: list[Group], output: str) -> str:
    values: list[Any] = []
    for group in groups:
        if group.revision is None:
            values += group.items
        else:
            values.append(
                {
                    "kind": f"{group.kind}List",
                    "apiVersion": API_VERSION,
                    "metadata": {"resourceVersion": str(group.revision)},
                    "items": group.items,
                }
            )
    from calicoctl.output import documents  # with PyYAML, which takes longer to load than a table to print

    shown: Any = values if len(values) > 1 else (values[0] if values else None)
    return documents.to_json(shown) if output == "json" else documents.to_yaml(shown)
