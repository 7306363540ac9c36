"""The network configuration as typed values (spec/cni.md 2.3). Pure.

`read_conf` takes the JSON object apart by one table. A member of a wrong type is an error for ADD; for DEL it is a
note, and the default counts: a clean-up must not fail for what it does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from libcalico.workload.cni import errors
from libcalico.workload.cni.errors import CniError

NODENAME_FILE = "/var/lib/calico/nodename"
MTU_FILE = "/var/lib/calico/mtu"

_WORDS = {str: "string", int: "integer", bool: "boolean", list: "array", dict: "object"}

# member path -> (type, default)
_MEMBERS: dict[str, tuple[type, Any]] = {
    "mtu": (int, 0),
    "require_mtu_file": (bool, False),
    "num_queues": (int, 1),
    "nodename": (str, ""),
    "nodename_file": (str, ""),
    "nodename_file_optional": (bool, False),
    "hostname": (str, ""),
    "container_settings.allow_ip_forwarding": (bool, False),
    "dataplane_options": (dict, {}),
    "device_type": (str, ""),
    "readiness_gates": (list, []),
    "policy_setup_timeout_seconds": (int, 0),
    "feature_control.ip_addrs_no_ipam": (bool, False),
    "policy.type": (str, ""),
    "datastore_type": (str, ""),
    "etcd_endpoints": (str, ""),
    "etcd_discovery_srv": (str, ""),
    "etcd_authority": (str, ""),
    "etcd_scheme": (str, ""),
    "etcd_key_file": (str, ""),
    "etcd_cert_file": (str, ""),
    "etcd_ca_cert_file": (str, ""),
    "log_level": (str, ""),
    "log_file_path": (str, ""),
    "ipam.type": (str, ""),
    "ipam.assign_ipv4": (str, ""),
    "ipam.assign_ipv6": (str, ""),
    "ipam.ipv4_pools": (list, []),
    "ipam.ipv6_pools": (list, []),
    "args.cni.ips": (list, []),
    "runtimeConfig.ips": (list, []),
    "runtimeConfig.mac": (str, ""),
}
_TEXT_LISTS = ("readiness_gates", "ipam.ipv4_pools", "ipam.ipv6_pools", "args.cni.ips", "runtimeConfig.ips")


class NetConf(NamedTuple):
    """One network's settings; see the table in spec/cni.md 2.3 for each."""

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
    log_file: str
    ipam_type: str
    want_v4: bool
    want_v6: bool
    pools_v4: tuple[str, ...]
    pools_v6: tuple[str, ...]
    wanted_ips: tuple[str, ...]
    mac: str
    network_info: Mapping[str, Any]

    @property
    def labels(self) -> Any:
        """The Mesos label list, whatever is there."""
        found = self.network_info.get("labels")
        return found.get("labels") if isinstance(found, dict) else None


def read_conf(conf: Mapping[str, Any], *, lenient: bool = False) -> tuple[NetConf, tuple[str, ...]]:
    """The settings, and notes about what was passed over (only when `lenient`)."""
    notes: list[str] = []
    found: dict[str, Any] = {}
    for path, (kind, default) in _MEMBERS.items():
        value = _look_up(conf, path)
        problem = _type_problem(path, kind, value)
        if problem and not lenient:
            raise CniError(errors.DECODING_FAILURE, f"failed to load netconf: {problem}")
        if problem:
            notes.append(f"{problem}: ignored")
        found[path] = default if value is None or problem else value
    ips = [*_texts(found["args.cni.ips"]), *_texts(found["runtimeConfig.ips"]), *_mesos_ips(conf)]
    read = NetConf(
        mtu=found["mtu"],
        require_mtu_file=found["require_mtu_file"],
        num_queues=found["num_queues"],
        nodename=found["nodename"],
        nodename_file=found["nodename_file"] or NODENAME_FILE,
        nodename_file_optional=found["nodename_file_optional"],
        hostname=found["hostname"],
        allow_ip_forwarding=found["container_settings.allow_ip_forwarding"],
        dataplane_type=_dataplane_type(found["dataplane_options"]),
        device_type=found["device_type"],
        readiness_gates=_texts(found["readiness_gates"]),
        policy_timeout_s=found["policy_setup_timeout_seconds"],
        ip_addrs_no_ipam=found["feature_control.ip_addrs_no_ipam"],
        policy_type=found["policy.type"],
        etcd={name: found[name] for name in found if name.startswith("etcd_") or name == "datastore_type"},
        log_level=found["log_level"],
        log_file=found["log_file_path"],
        ipam_type=found["ipam.type"],
        want_v4=found["ipam.assign_ipv4"] != "false",
        want_v6=found["ipam.assign_ipv6"] == "true",
        pools_v4=_texts(found["ipam.ipv4_pools"]),
        pools_v6=_texts(found["ipam.ipv6_pools"]),
        wanted_ips=tuple(dict.fromkeys(address.partition("/")[0] for address in ips)),
        mac=found["runtimeConfig.mac"],
        network_info=_network_info(conf),
    )
    return read, tuple(notes)


def _look_up(conf: Mapping[str, Any], path: str) -> Any:
    value: Any = conf
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _type_problem(path: str, kind: type[Any], value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"{path} is {value!r}, wanted {_WORDS[kind]}"
    if path in _TEXT_LISTS and not all(isinstance(item, str) for item in value):
        return f"{path} is {value!r}, wanted array of strings"
    return ""


def _texts(items: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in items)


def _dataplane_type(options: Mapping[str, Any]) -> str:
    return str(options.get("type", "")) if options else ""


def _network_info(conf: Mapping[str, Any]) -> Mapping[str, Any]:
    args = conf.get("args")
    mesos = args.get("org.apache.mesos") if isinstance(args, dict) else None
    info = mesos.get("network_info") if isinstance(mesos, dict) else None
    return info if isinstance(info, dict) else {}


def _mesos_ips(conf: Mapping[str, Any]) -> list[str]:
    wanted = _network_info(conf).get("ip_addresses")
    entries = wanted if isinstance(wanted, list) else []
    found = [entry.get("ip_address") for entry in entries if isinstance(entry, dict)]
    return [address for address in found if isinstance(address, str) and address]
