"""How etcd is reached: one table of settings, and one way in which every program settles them.

The same setting has a name in a CalicoAPIConfig file, a variable, which is also known with the prefix `CALICO_`, a
parameter of the agent and a member of a CNI network configuration. The order, the first that is not empty counts:

* calicoctl, `Client`: the file alone when it exists; else `CALICO_` variables, then plain ones;
* the agent and `calico-felix startup`: `FELIX_` variables, felix.cfg, `CALICO_` variables, plain ones;
* the CNI plug-in without an agent: `CALICO_` variables, the network configuration, plain variables.

Each value keeps its source, so that an error can name it. Source: spec/datastore.md 9, spec/felix-config.md 1,
spec/cni.md 4.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from libcalico.datastore.certificates import Certificates, Pem, read_tls
from libcalico.datastore.discovery import discover
from libcalico.errors import BadData
from libcalico.text import shown

CALICO = "CALICO_"
METADATA_NAME = re.compile(r"[0-9a-z_.-]+")
METADATA_VALUE = re.compile(r"[ -~]*")
ENDPOINT = re.compile(r"(?i:(https?))://(\[[0-9a-fA-F:.%]+\]|[^:/@?#\[\]\s]+)(?::([0-9]{1,5}))?/*")
LARGEST_PORT = 65535


class Setting(NamedTuple):
    """One row: the setting's names, "" where it has none. `member`: of a CalicoAPIConfig's spec."""

    member: str
    variable: str
    parameter: str
    network: str
    text: str


SETTINGS = (
    Setting("datastoreType", "DATASTORE_TYPE", "DatastoreType", "datastore_type", "`etcdv3`, the only one there is"),
    Setting(
        "etcdEndpoints", "ETCD_ENDPOINTS", "EtcdEndpoints", "etcd_endpoints",
        "URLs with a comma between them, such as `http://10.0.0.1:2379`; one without a scheme takes that of the row"
        " `EtcdScheme`",
    ),
    Setting(
        "etcdDiscoverySrv", "ETCD_DISCOVERY_SRV", "", "etcd_discovery_srv",
        "instead of URLs: a domain with SRV records `_etcd-client-ssl._tcp` (https) or `_etcd-client._tcp` (http)",
    ),
    Setting("", "ETCD_AUTHORITY", "EtcdAddr", "etcd_authority", "host:port, only without URLs and domain; deprecated"),
    Setting("", "ETCD_SCHEME", "EtcdScheme", "etcd_scheme", "`http` or `https`, for what has no scheme; else `http`"),
    Setting("etcdUsername", "ETCD_USERNAME", "", "", "a user of etcd; counts only with a password"),
    Setting("etcdPassword", "ETCD_PASSWORD", "", "", "its password; counts only with a user"),
    Setting("etcdKeyFile", "ETCD_KEY_FILE", "EtcdKeyFile", "etcd_key_file", "the client's key, a PEM file"),
    Setting("etcdCertFile", "ETCD_CERT_FILE", "EtcdCertFile", "etcd_cert_file", "the client's certificate, a PEM file"),
    Setting(
        "etcdCACertFile", "ETCD_CA_CERT_FILE", "EtcdCaFile", "etcd_ca_cert_file",
        "the authority that signed etcd's certificate, a PEM file; else the system's authorities",
    ),
    Setting("etcdKey", "", "", "", "the client's key itself, PEM; not together with files"),
    Setting("etcdCert", "", "", "", "the client's certificate itself, PEM"),
    Setting("etcdCACert", "", "", "", "the authority's certificate itself, PEM"),
    Setting(
        "etcdCustomGRPCMetadata", "ETCD_CUSTOM_GRPC_METADATA", "", "",
        "sent with every request: `name:value`, with commas between them; a map in the file",
    ),
)  # fmt: skip
INLINE = ("etcdKey", "etcdCert", "etcdCACert")
FILES = ("etcdKeyFile", "etcdCertFile", "etcdCACertFile")
MIXED = "Cannot mix inline certificate-key and certificate / key files"


class Found(NamedTuple):
    """A setting's value and where it comes from, as an error names it."""

    value: Any
    source: str


Settings = Mapping[str, Found]
"""By name: `name_of` each row."""


class EtcdConfig(NamedTuple):
    """How to reach etcd. `endpoints` are URLs, `source` the setting that names them.

    `metadata` goes with every request."""

    endpoints: tuple[str, ...]
    username: str = ""
    password: str = ""
    certificates: Certificates = Certificates()
    metadata: tuple[tuple[str, str], ...] = ()
    source: str = ""


def name_of(setting: Setting) -> str:
    """What a setting is called here: its member, else the agent's parameter."""
    return setting.member or setting.parameter


def from_variables(environment: Mapping[str, str], prefix: str = "") -> dict[str, Found]:
    """What the environment says in variables with this prefix."""
    names = {name_of(one): f"{prefix}{one.variable}" for one in SETTINGS if one.variable}
    return {name: Found(environment[key], key) for name, key in names.items() if environment.get(key, "").strip()}


def from_environment(environment: Mapping[str, str]) -> dict[str, Found]:
    """The same for both forms of each variable: the one with `CALICO_` wins."""
    return first_of(from_variables(environment, CALICO), from_variables(environment))


def from_network(members: Mapping[str, str]) -> dict[str, Found]:
    """What a CNI network configuration says."""
    names = {name_of(one): one.network for one in SETTINGS if one.network}
    return {
        name: Found(members[key], f"{key} of the network configuration")
        for name, key in names.items()
        if members.get(key, "").strip()
    }


def first_of(*sources: Settings) -> dict[str, Found]:
    """Each setting from the first of these sources that has it; an empty value counts as none."""
    settled: dict[str, Found] = {}
    for source in sources:
        for name, found in source.items():
            if found.value:
                settled.setdefault(name, found)
    return settled


def log_warning(text: str) -> None:
    """Logging is loaded only now: for a program of one request it takes as long as the request."""
    import logging

    logging.getLogger(__name__).warning(text)


def etcd_config(settings: Settings, warn: Callable[[str], None] = log_warning) -> EtcdConfig:
    """The connection, checked as far as this can be done without etcd; `warn` takes what is deprecated. Raises
    `BadData`."""
    kind = settings.get("datastoreType", Found("etcdv3", ""))
    if kind.value != "etcdv3":
        raise BadData(f"datastore type '{shown(kind.value)}' is not supported: use etcdv3 ({kind.source})")
    endpoints = _endpoints(settings, warn)
    username, password = _text(settings, "etcdUsername"), _text(settings, "etcdPassword")
    config = EtcdConfig(
        endpoints.value,
        username=username if password else "",
        password=password if username else "",
        certificates=_certificates(settings),
        metadata=_metadata(settings.get("etcdCustomGRPCMetadata")),
        source=endpoints.source,
    )
    read_tls(config.certificates)
    return config


def _text(settings: Settings, name: str) -> str:
    return str(settings[name].value) if name in settings else ""


def _endpoints(settings: Settings, warn: Callable[[str], None]) -> Found:
    """The URLs, and the setting that named them."""
    given, domain = settings.get("etcdEndpoints"), settings.get("etcdDiscoverySrv")
    if given and domain:
        error = BadData(
            'multiple discovery or bootstrap options specified, use either "etcdEndpoints" or "etcdDiscoverySrv"'
        )
        error.add_note(f"{given.source} and {domain.source} are both given")
        raise error
    if domain:
        return Found(discover(str(domain.value), domain.source), domain.source)
    authority = settings.get("EtcdAddr")
    if given is None and authority is not None:
        warn(f"{authority.source} is deprecated: give URLs of etcd")
        given = authority
    scheme = settings.get("EtcdScheme", Found("http", ""))
    if str(scheme.value).lower() not in ("http", "https"):
        raise BadData(f"{scheme.source}: '{shown(scheme.value)}' is not http or https")
    parts = [part.strip() for part in str(given.value).split(",")] if given else []
    found = tuple(_url(part, str(scheme.value), given.source) for part in parts if part and given)
    if not found or given is None:
        error = BadData("no etcd endpoints specified")
        error.add_note(
            "set ETCD_ENDPOINTS to URLs such as http://10.0.0.1:2379, or etcdEndpoints in /etc/calico/calicoctl.cfg"
        )
        raise error
    return Found(found, given.source)


def _url(text: str, scheme: str, source: str) -> str:
    """One endpoint, with a scheme."""
    url = text if "://" in text else f"{scheme}://{text}"
    parts = ENDPOINT.fullmatch(url)
    port = parts[3] if parts else None
    kind = parts[1].lower() if parts else ""
    if parts is None or (port is None and kind == "http") or not 0 < int(port or 443) <= LARGEST_PORT:
        raise BadData(f"{source}: '{shown(text)}' is not a URL of etcd such as http://10.0.0.1:2379")
    return kind + url[len(kind) :].rstrip("/")


def _certificates(settings: Settings) -> Certificates:
    inline, files = [name for name in INLINE if name in settings], [name for name in FILES if name in settings]
    if inline and files:
        error = BadData(MIXED)
        error.add_note(f"{settings[inline[0]].source} and {settings[files[0]].source} are both given")
        raise error

    def pem(name: str) -> Pem | None:
        if found := settings.get(f"{name}File"):
            return Pem(found.source, path=str(found.value))
        text = settings.get(name)
        return Pem(text.source, text=str(text.value).encode()) if text else None

    return Certificates(pem("etcdCACert"), pem("etcdCert"), pem("etcdKey"))


def _metadata(found: Found | None) -> tuple[tuple[str, str], ...]:
    if found is None:
        return ()
    pairs: Iterable[tuple[str, str]] = found.value.items() if isinstance(found.value, dict) else _pairs(found.value)
    return tuple(_sent_pair(*pair) for pair in pairs)


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for item in text.split(","):
        pair = item.split(":")
        if len(pair) != 2:
            raise BadData(f'invalid map item: "{shown(item)}"')
        pairs.append((pair[0], pair[1]))
    return list(dict(pairs).items())


def _sent_pair(name: str, value: str) -> tuple[str, str]:
    """A name and value that gRPC sends; others it refuses with every call, without saying which."""
    if not METADATA_NAME.fullmatch(name.lower()):
        raise BadData(
            f"etcdCustomGRPCMetadata: the name '{shown(name)}' may have letters, digits, '-', '_' and '.' only"
        )
    if not METADATA_VALUE.fullmatch(value):
        raise BadData(
            f"etcdCustomGRPCMetadata: {name}: the value '{shown(value)}' may have printable ASCII characters only"
        )
    return name.lower(), value
