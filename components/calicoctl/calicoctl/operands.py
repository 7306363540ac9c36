"""Kinds, names and namespaces as the user gives them."""

from __future__ import annotations

from typing import Any

from libcalico.errors import BadData, OperationNotSupported
from libcalico.manifest.kinds import KINDS_ARE, TYPED
from libcalico.model import KINDS, kind_of_word

DEFAULT_NAMESPACE = "default"


def kind_of(word: str) -> str:
    """The kind that a word means; raises `BadData` for one that is not there."""
    kind = kind_of_word(word)
    if kind is None or kind not in TYPED:
        error = BadData(f"resource type '{word}' is not supported")
        error.add_note(KINDS_ARE)
        raise error
    return kind


def check_names(names: list[str]) -> None:
    """Names must not be empty."""
    if "" in names:
        raise BadData("resource name may not be empty")


def is_kubernetes_policy(kind: str, name: str) -> bool:
    """A policy that Kubernetes' API owns, known by its name."""
    return kind == "NetworkPolicy" and name.startswith("knp.default.")


def refuse_read_only(kind: str, name: str, namespace: str, operation: str) -> None:
    """Raise `OperationNotSupported` for an object that is not the user's to change."""
    if kind == "ClusterInformation":
        raise OperationNotSupported(operation, "ClusterInformation")
    if is_kubernetes_policy(kind, name):
        reason = "kubernetes network policies must be managed through the kubernetes API"
        raise OperationNotSupported(operation, f"{kind}({namespace}/{name})", reason)


def namespace_for(kind: str, given: str, arguments: dict[str, Any]) -> str:
    """The namespace of an object: its own, the option's, or `default`; empty for kinds without one."""
    option = arguments.get("--namespace") or ""
    everywhere = bool(arguments.get("--all-namespaces") or arguments.get("-a"))
    if option and everywhere:
        raise BadData("cannot use both --namespace and --all-namespaces flags at the same time")
    if not KINDS[kind].namespaced:
        if given:
            raise BadData(
                f"namespace should not be specified for a non-namespaced resource. {kind} is not a namespaced resource"
            )
        if option or everywhere:
            raise BadData(f"{kind} is not namespaced")
        return ""
    if given and option and given != option:
        raise BadData(f"resource namespace does not match client namespace. {given} != {option}")
    return given or option or DEFAULT_NAMESPACE
