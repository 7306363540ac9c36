"""A CNI call as its environment and stdin say it, checked in the order of the CNI library (spec/cni.md 2). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from libcalico.cni import errors, versions
from libcalico.cni.errors import CniError
from libcalico.workload.plan import interface_name_problem

COMMANDS = ("ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION")
_ATTACHMENT = frozenset({"ADD", "CHECK", "DEL"})
_REQUIRED = (
    ("CNI_CONTAINERID", _ATTACHMENT),
    ("CNI_NETNS", frozenset({"ADD", "CHECK"})),
    ("CNI_IFNAME", _ATTACHMENT),
    ("CNI_PATH", _ATTACHMENT | {"GC", "STATUS"}),
)
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")


class CniRequestData(NamedTuple):
    """A call as it arrived: the program's name (`calico` or `calico-ipam`), the `CNI_*` variables, and stdin."""

    program: str
    environment: Mapping[str, str]
    stdin: bytes


class CniAnswer(NamedTuple):
    """What the program prints and how it ends."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""


class Call(NamedTuple):
    """A call whose environment and stdin are sound. `conf` is stdin's object; `args` come from CNI_ARGS."""

    program: str
    command: str
    container_id: str
    netns: str
    interface: str
    path: str
    arguments: str
    conf: dict[str, Any]
    environment: Mapping[str, str]
    stdin: bytes

    @property
    def network(self) -> str:
        """The network's name."""
        return str(self.conf["name"])

    @property
    def version(self) -> str:
        """The configuration's version of the protocol; one without a version means the oldest."""
        return self.conf.get("cniVersion") or versions.OLDEST


def parse_request(request: CniRequestData) -> Call:
    """The call, or `CniError`. VERSION and calls without a command are answered before this."""
    environment = request.environment
    command = environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(errors.BAD_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
    missing = [name for name, commands in _REQUIRED if command in commands and not environment.get(name)]
    if missing:
        raise CniError(errors.BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    conf = parse_conf_object(request.stdin)
    call = Call(
        program=request.program,
        command=command,
        container_id=environment.get("CNI_CONTAINERID", ""),
        netns=environment.get("CNI_NETNS", ""),
        interface=environment.get("CNI_IFNAME", ""),
        path=environment.get("CNI_PATH", ""),
        arguments=environment.get("CNI_ARGS", ""),
        conf=conf,
        environment=environment,
        stdin=request.stdin,
    )
    _check_names(call)
    _check_version(call)
    return call


def parse_conf_object(stdin: bytes) -> dict[str, Any]:
    """Stdin as an object with a sound network name."""
    try:
        conf = msgspec.json.decode(stdin)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = "unexpected end of JSON input" if not stdin.strip() or "truncated" in str(error) else str(error)
        raise CniError(errors.DECODING_FAILURE, f"error unmarshall network config: {text}") from None
    if not isinstance(conf, dict):
        text = f"json: cannot unmarshal {_kind(conf)} into an object"
        raise CniError(errors.DECODING_FAILURE, f"error unmarshall network config: {text}")
    for member in ("name", "cniVersion", "type"):
        if not isinstance(conf.get(member, ""), str | None):
            text = f"{member} is {_kind(conf[member])}, wanted string"
            raise CniError(errors.DECODING_FAILURE, f"error unmarshall network config: {text}")
    name = conf.get("name")
    if not name:
        raise CniError(errors.BAD_CONFIG, "missing network name")
    if not _ID.fullmatch(name):
        raise CniError(errors.BAD_CONFIG, "invalid characters found in network name", name)
    return conf


def _check_names(call: Call) -> None:
    if call.container_id and not _ID.fullmatch(call.container_id):
        raise CniError(errors.BAD_ENVIRONMENT, "invalid characters in containerID", call.container_id)
    problem = interface_name_problem(call.interface) if call.interface else ""
    if problem:
        details = "interface name should be less than 16 characters" if "too long" in problem else ""
        raise CniError(errors.BAD_ENVIRONMENT, problem, details)


def _check_version(call: Call) -> None:
    version, command = call.version, call.command
    if command in _SINCE:
        if versions.parse(version) and not versions.at_least(version, _SINCE[command]):
            raise CniError(errors.INCOMPATIBLE_VERSION, f"config version does not allow {command}")
        if versions.at_least(version, versions.NEWEST) and version not in versions.SUPPORTED:
            raise CniError(errors.INCOMPATIBLE_VERSION, f"plugin version does not allow {command}")
    if version not in versions.SUPPORTED:
        known = " ".join(f'"{item}"' for item in versions.SUPPORTED)
        details = f'config is "{version}", plugin supports [{known}]'
        raise CniError(errors.INCOMPATIBLE_VERSION, "incompatible CNI versions", details)


def parse_arguments(text: str) -> dict[str, str]:
    """The pairs of CNI_ARGS; of repeated ones the last counts. `CniError` for a pair without exactly one `=`."""
    found: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise CniError(errors.GENERAL, f'ARGS: invalid pair "{pair}"')
        found[key] = value
    return found


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"
