"""The network configuration as typed values (spec/cni.md 2.3). Pure.

`read_conf` takes the JSON object apart by one table, in which every member that is read has its type. A member of a
wrong type, wherever it is nested, is an error for ADD; for DEL it is a note, and the default counts: a clean-up must
not fail for what it does not need. `null` counts as absent, in `args` as the empty text, as Go reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from libcalico.cni import errors
from libcalico.cni.errors import CniError, shown
from libcalico.conventions import NODENAME_FILE
from libcalico.net import bare_address

Schema = type | dict[str, Any] | list[Any]
"""A type, an object's members with theirs, or an array with that of its items."""

_LABELS: dict[str, Any] = {"labels": [{"key": str, "value": str}]}
_WORDS = {str: "string", int: "integer", bool: "boolean"}
_MEMBERS: dict[str, Any] = {
    "mtu": int,
    "require_mtu_file": bool,
    "num_queues": int,
    "nodename": str,
    "nodename_file": str,
    "nodename_file_optional": bool,
    "hostname": str,
    "container_settings": {"allow_ip_forwarding": bool},
    "dataplane_options": {"type": str},
    "device_type": str,
    "readiness_gates": [str],
    "policy_setup_timeout_seconds": int,
    "feature_control": {"ip_addrs_no_ipam": bool},
    "policy": {"type": str},
    "datastore_type": str,
    "etcd_endpoints": str,
    "etcd_discovery_srv": str,
    "etcd_authority": str,
    "etcd_scheme": str,
    "etcd_key_file": str,
    "etcd_cert_file": str,
    "etcd_ca_cert_file": str,
    "log_level": str,
    "log_file_path": str,
    "log_file_max_size": int,
    "log_file_max_age": int,
    "log_file_max_count": int,
    "ipam": {"type": str, "assign_ipv4": str, "assign_ipv6": str, "ipv4_pools": [str], "ipv6_pools": [str]},
    "prevResult": {},
    "dns": {"nameservers": [str], "domain": str, "search": [str], "options": [str]},
    "runtimeConfig": {"ips": [str], "mac": str},
    "args": {
        "cni": {"ips": [str], **_LABELS},
        "org.apache.mesos": {"network_info": {"name": str, "labels": _LABELS, "ip_addresses": [{"ip_address": str}]}},
    },
}


class LogFile(NamedTuple):
    """Where lines of the call go besides stderr; `path` "" = nowhere. The file is rotated at `max_bytes`."""

    path: str
    max_bytes: int
    max_age_days: int
    max_count: int


class NetConf(NamedTuple):
    """One network's settings; see the table in spec/cni.md 2.3 for each. `etcd_problem`: one of `etcd` is no text."""

    mtu: int
    require_mtu_file: bool
    num_queues: int
    nodename: str
    nodename_file: str
    nodename_file_optional: bool
    hostname: str
    allow_ip_forwarding: bool
    dataplane_type: str
    device_type: str
    readiness_gates: tuple[str, ...]
    policy_timeout_s: int
    ip_addrs_no_ipam: bool
    policy_type: str
    etcd: Mapping[str, str]
    log_level: str
    log_file: LogFile
    ipam_type: str
    want_v4: bool
    want_v6: bool
    pools_v4: tuple[str, ...]
    pools_v6: tuple[str, ...]
    wanted_ips: tuple[str, ...]
    mac: str
    labels: tuple[tuple[str, str], ...]
    cni_labels: tuple[tuple[str, str], ...]
    dns: Mapping[str, Any]
    etcd_problem: str = ""


def read_conf(conf: Mapping[str, Any], *, lenient: bool = False) -> tuple[NetConf, tuple[str, ...]]:
    """The settings, and notes about what was passed over (only when `lenient`)."""
    problems: list[str] = []
    found = _checked(conf, _MEMBERS, "", problems)
    if problems and not lenient:
        raise CniError(errors.DECODING_FAILURE, f"failed to load netconf: {problems[0]}")
    typed = _typed(found)._replace(etcd_problem=next((one for one in problems if one.startswith(_ETCD)), ""))
    return typed, tuple(f"{problem}: ignored" for problem in problems)


def check_types(value: Any, schema: Schema, path: str) -> None:
    """`CniError` for the first member of a wrong type, wherever it is nested in what stands at `path`."""
    problems: list[str] = []
    _checked(value, schema, path, problems)
    if problems:
        raise CniError(errors.DECODING_FAILURE, f"failed to load netconf: {problems[0]}")


def _checked(value: Any, schema: Schema, path: str, problems: list[str]) -> Any:
    """What the schema knows of a value, without what has a wrong type."""
    if isinstance(schema, dict) and isinstance(value, dict):
        known = ((name, schema[name], value[name]) for name in schema if value.get(name) is not None)
        return {name: _checked(item, part, f"{path}.{name}" if path else name, problems) for name, part, item in known}
    if isinstance(schema, list) and isinstance(value, list):
        return [_checked(item, schema[0], f"{path}[{place}]", problems) for place, item in enumerate(value)]
    if isinstance(schema, type) and (value is None or _is(value, schema)):
        return value
    if value is not None:
        problems.append(f"{path} is {shown(value)}, wanted {_word(schema)}")
    return None


def _is(value: Any, kind: type) -> bool:
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, kind)


def _word(schema: Schema) -> str:
    if isinstance(schema, dict):
        return "object"
    return "array" if isinstance(schema, list) else _WORDS[schema]


def _typed(found: Mapping[str, Any]) -> NetConf:
    ipam, runtime = _object(found, "ipam"), _object(found, "runtimeConfig")
    cni = _object(found, "args", "cni")
    mesos = _object(found, "args", "org.apache.mesos", "network_info")
    ips = [*_texts(cni, "ips"), *_texts(runtime, "ips"), *_mesos_ips(mesos)]
    dns = _object(found, "dns")
    return NetConf(
        mtu=found.get("mtu") or 0,
        require_mtu_file=found.get("require_mtu_file") or False,
        num_queues=found.get("num_queues") or 1,
        nodename=found.get("nodename") or "",
        nodename_file=found.get("nodename_file") or NODENAME_FILE,
        nodename_file_optional=found.get("nodename_file_optional") or False,
        hostname=found.get("hostname") or "",
        allow_ip_forwarding=_object(found, "container_settings").get("allow_ip_forwarding") or False,
        dataplane_type=_object(found, "dataplane_options").get("type") or "",
        device_type=found.get("device_type") or "",
        readiness_gates=_texts(found, "readiness_gates"),
        policy_timeout_s=max(0, found.get("policy_setup_timeout_seconds") or 0),
        ip_addrs_no_ipam=_object(found, "feature_control").get("ip_addrs_no_ipam") or False,
        policy_type=_object(found, "policy").get("type") or "",
        etcd={name: found.get(name) or "" for name in _ETCD},
        log_level=found.get("log_level") or "",
        log_file=_log_file(found),
        ipam_type=ipam.get("type") or "",
        want_v4=ipam.get("assign_ipv4") != "false",
        want_v6=ipam.get("assign_ipv6") == "true",
        pools_v4=_texts(ipam, "ipv4_pools"),
        pools_v6=_texts(ipam, "ipv6_pools"),
        wanted_ips=tuple(dict.fromkeys(bare_address(address) for address in ips if address)),
        mac=runtime.get("mac") or "",
        labels=tuple(_labels(_object(mesos, "labels"))),
        cni_labels=tuple(_labels(cni)),
        dns={name: dns[name] if name == "domain" else list(_texts(dns, name)) for name in dns if dns[name]},
    )


_ETCD = ("datastore_type", *(name for name in _MEMBERS if name.startswith("etcd_")))


def _object(found: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for name in path:
        found = found.get(name) or {}
    return found


def _texts(found: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(text or "" for text in found.get(name) or ())


def _mesos_ips(info: Mapping[str, Any]) -> list[str]:
    return [(entry or {}).get("ip_address") or "" for entry in info.get("ip_addresses") or ()]


def _labels(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    entries = [entry or {} for entry in found.get("labels") or ()]
    return [(entry.get("key") or "", entry.get("value") or "") for entry in entries]


def _log_file(found: Mapping[str, Any]) -> LogFile:
    def positive(name: str, default: int) -> int:
        value = found.get(name) or 0
        return value if value > 0 else default

    return LogFile(
        path=found.get("log_file_path") or "",
        max_bytes=positive("log_file_max_size", 100) << 20,
        max_age_days=positive("log_file_max_age", 30),
        max_count=positive("log_file_max_count", 10),
    )
