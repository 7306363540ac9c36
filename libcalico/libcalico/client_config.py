"""How a client finds its datastore: a CalicoAPIConfig file or the environment (spec/datastore.md 9).

A file that exists is used alone; file and environment are never merged. Each variable is also known with the prefix
`CALICO_`, which wins. The Kubernetes members are accepted and ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from libcalico.datastore.etcd import EtcdConfig, read_pem
from libcalico.errors import BadData
from libcalico.model import yaml_input
from libcalico.model.fold import Place, WrongType, as_text
from libcalico.model.resources import API_VERSION

DEFAULT_FILE = "/etc/calico/calicoctl.cfg"
VARIABLES = {
    "datastoreType": "DATASTORE_TYPE",
    "etcdEndpoints": "ETCD_ENDPOINTS",
    "etcdDiscoverySrv": "ETCD_DISCOVERY_SRV",
    "etcdUsername": "ETCD_USERNAME",
    "etcdPassword": "ETCD_PASSWORD",
    "etcdKeyFile": "ETCD_KEY_FILE",
    "etcdCertFile": "ETCD_CERT_FILE",
    "etcdCACertFile": "ETCD_CA_CERT_FILE",
    "etcdCustomGRPCMetadata": "ETCD_CUSTOM_GRPC_METADATA",
}
METADATA_NAME = re.compile(r"[0-9a-z_.-]+")
METADATA_VALUE = re.compile(r"[ -~]*")
UNPARSED = "failed to parse config as YAML/JSON"
INLINE = ("etcdKey", "etcdCert", "etcdCACert")
IGNORED = frozenset(
    ("usePodCIDR", "kubeconfig", "kubeconfigInline", "k8sAPIEndpoint", "k8sAPIToken", "k8sKeyFile", "k8sCertFile",
     "k8sCAFile", "k8sInsecureSkipTLSVerify", "k8sDisableNodePoll", "k8sUsePodCIDR", "k8sClientQPS",
     "k8sCurrentContext")
)  # fmt: skip


class UnreadableConfig(BadData):
    """The configuration file that was asked for cannot be read."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Error reading config file: {path}")


def load(path: str, environment: Mapping[str, str]) -> EtcdConfig:
    """The connection settings. Raises `UnreadableConfig`, or `BadData` with upstream's words."""
    content: bytes | None = None
    try:
        content = Path(path).read_bytes()
    except OSError:
        if path != DEFAULT_FILE:
            raise UnreadableConfig(path) from None
    if content is None:
        return from_settings(_from_environment(environment))
    try:
        settings = _from_file(yaml_input.decode(content))
    except BadData as error:
        raise BadData(f"syntax error in {path}: {error}") from None
    return from_settings(settings)


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for member, variable in VARIABLES.items():
        value = environment.get(f"CALICO_{variable}") or environment.get(variable)
        if value:
            settings[member] = value
    if "etcdCustomGRPCMetadata" in settings:
        settings["etcdCustomGRPCMetadata"] = _metadata_pairs(settings["etcdCustomGRPCMetadata"])
    return settings


def _metadata_pairs(text: str) -> dict[str, str]:
    pairs = {}
    for item in text.split(","):
        pair = item.split(":")
        if len(pair) != 2:
            raise BadData(f'invalid map item: "{item}"')
        pairs[pair[0]] = pair[1]
    return pairs


def _from_file(text: str) -> dict[str, Any]:
    try:
        document = yaml_input.load(text)
    except BadData as error:
        raise BadData(f"{UNPARSED}: {error}") from None
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
    known = {name.lower(): name for name in (*VARIABLES, *INLINE, *IGNORED)}
    settings = {}
    for name, value in spec.items():
        member = known.get(name.lower())
        if member is None:
            raise BadData(f'{UNPARSED}: error unmarshaling JSON: while decoding JSON: json: unknown field "{name}"')
        if value is not None and member not in IGNORED:
            settings[member] = _setting(member, value)
    return settings


def _setting(member: str, value: Any) -> Any:
    """A member's value in its type: text, or pairs of texts; a number where text is wanted becomes text."""
    if member == "etcdCustomGRPCMetadata":
        if not isinstance(value, dict):
            raise BadData(f"{UNPARSED}: {member} must be an object")
        return {name: _text(f"{member}.{name}", entry) for name, entry in value.items() if entry is not None}
    return _text(member, value)


def _text(member: str, value: Any) -> str:
    try:
        return as_text(value, Place("CalicoAPIConfigSpec", member))
    except WrongType:
        raise BadData(f"{UNPARSED}: {member} must be text") from None


def from_settings(settings: Mapping[str, Any]) -> EtcdConfig:
    """Settings by their file names, checked."""
    kind = settings.get("datastoreType") or "etcdv3"
    if kind != "etcdv3":
        raise BadData(f"datastore type '{kind}' is not supported: use etcdv3")
    endpoints, srv = settings.get("etcdEndpoints") or "", settings.get("etcdDiscoverySrv") or ""
    if endpoints and srv:
        raise BadData(
            'multiple discovery or bootstrap options specified, use either "etcdEndpoints" or "etcdDiscoverySrv"'
        )
    if srv:
        raise BadData(f"etcdDiscoverySrv '{srv}': discovery by SRV records is not supported: list etcdEndpoints")
    if not endpoints:
        error = BadData("no etcd endpoints specified")
        error.add_note(f"set ETCD_ENDPOINTS to URLs such as http://10.0.0.1:2379, or etcdEndpoints in {DEFAULT_FILE}")
        raise error
    username, password = settings.get("etcdUsername") or "", settings.get("etcdPassword") or ""
    return EtcdConfig(
        endpoints=tuple(part.strip() for part in endpoints.split(",") if part.strip()),
        username=username if password else "",
        password=password if username else "",
        ca_certificate=_certificate(settings, "etcdCACert"),
        certificate=_certificate(settings, "etcdCert"),
        key=_certificate(settings, "etcdKey"),
        metadata=tuple(_sent_pair(*pair) for pair in (settings.get("etcdCustomGRPCMetadata") or {}).items()),
    )


def _sent_pair(name: str, value: str) -> tuple[str, str]:
    """A name and value that gRPC sends; others it refuses with every call, without saying which."""
    if not METADATA_NAME.fullmatch(name.lower()):
        raise BadData(f"etcdCustomGRPCMetadata: the name '{name}' may have letters, digits, '-', '_' and '.' only")
    if not METADATA_VALUE.fullmatch(value):
        raise BadData(f"etcdCustomGRPCMetadata: {name}: the value {value!r} may have printable ASCII characters only")
    return name.lower(), value


def _certificate(settings: Mapping[str, Any], member: str) -> bytes | None:
    inline, path = settings.get(member), settings.get(f"{member}File")
    if inline and path:
        raise BadData(f"could not initialize etcdv3 client: {member} and {member}File are both given: keep one")
    if inline:
        return str(inline).encode()
    if not path:
        return None
    try:
        return read_pem(str(path))
    except BadData as error:
        raise BadData(f"could not initialize etcdv3 client: {error}") from None
