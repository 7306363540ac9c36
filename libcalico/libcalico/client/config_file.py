"""The CalicoAPIConfig file of calicoctl and of scripts (spec/datastore.md 9.1). The Kubernetes members are accepted and
ignored."""

from __future__ import annotations

from typing import Any

from libcalico.client import plain_file
from libcalico.datastore.settings import SETTINGS, Found
from libcalico.errors import BadData
from libcalico.model.base import API_VERSION

UNPARSED = "failed to parse config as YAML/JSON"
MEMBERS = tuple(one.member for one in SETTINGS if one.member)
IGNORED = frozenset(
    ("usePodCIDR", "kubeconfig", "kubeconfigInline", "k8sAPIEndpoint", "k8sAPIToken", "k8sKeyFile", "k8sCertFile",
     "k8sCAFile", "k8sInsecureSkipTLSVerify", "k8sDisableNodePoll", "k8sUsePodCIDR", "k8sClientQPS",
     "k8sCurrentContext")
)  # fmt: skip


def read(content: bytes, path: str) -> dict[str, Found]:
    """The settings that the file's content holds. Raises `BadData` with upstream's words."""
    try:
        document = plain_file.read(content)
        return _from_document(_load(content) if document is None else document, path)
    except BadData as error:
        raise BadData(f"syntax error in {path}: {error}") from None


def _load(content: bytes) -> Any:
    from libcalico.manifest import yaml_input

    text = yaml_input.decode(content)
    try:
        document = yaml_input.load(text)
    except BadData as error:
        raise BadData(f"{UNPARSED}: {error}") from None
    return {} if document is None else document


def _from_document(document: Any, path: str) -> dict[str, Found]:
    if not isinstance(document, dict):
        raise BadData("invalid config file: it is not an object")
    if document.get("apiVersion") != API_VERSION:
        raise BadData(f"invalid config file: unknown APIVersion '{document.get('apiVersion') or ''}'")
    if document.get("kind") != "CalicoAPIConfig":
        raise BadData(f"invalid config file: expected kind 'CalicoAPIConfig', got '{document.get('kind') or ''}'")
    for name in document:
        if name not in ("apiVersion", "kind", "metadata", "spec"):
            raise BadData(f'{UNPARSED}: error unmarshaling JSON: while decoding JSON: json: unknown field "{name}"')
    spec = document.get("spec") or {}
    if not isinstance(spec, dict):
        raise BadData(f"{UNPARSED}: spec must be an object")
    known = {name.lower(): name for name in (*MEMBERS, *IGNORED)}
    settings = {}
    for name, value in spec.items():
        member = known.get(name.lower())
        if member is None:
            raise BadData(f'{UNPARSED}: error unmarshaling JSON: while decoding JSON: json: unknown field "{name}"')
        read = None if member in IGNORED or value is None else _setting(member, value)
        if read:
            settings[member] = Found(read, f"{member} in {path}")
    return settings


def _setting(member: str, value: Any) -> Any:
    """A member's value in its type: text, or pairs of texts; a number where text is wanted becomes text."""
    if member == "etcdCustomGRPCMetadata":
        if not isinstance(value, dict):
            raise BadData(f"{UNPARSED}: {member} must be an object")
        return {name: _text(f"{member}.{name}", entry) for name, entry in value.items() if entry is not None}
    return _text(member, value)


def _text(member: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    from libcalico.model.lenient import Place, WrongType, as_text  # which few files need

    try:
        return as_text(value, Place("CalicoAPIConfigSpec", member))
    except WrongType:
        raise BadData(f"{UNPARSED}: {member} must be text") from None
