"""The plug-in's settings: variables of its environment, in upstream's spelling (spec/libnetwork.md 2)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from libcalico.conventions import NODE_SOCKET
from libcalico.durations import parse_duration
from libcalico.errors import BadData

log = logging.getLogger(__name__)

PREFIX = "CALICO_LIBNETWORK_"
LARGEST_MTU = 65535
_IFPREFIX = re.compile(r"[A-Za-z0-9_.-]{1,13}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)


class Scope(Enum):
    """Who must know a network of ours: one engine, or all that share a store. AUTO: the engine is asked."""

    AUTO = "auto"
    LOCAL = "local"
    GLOBAL = "global"


class Settings(NamedTuple):
    """`node`: "" = the agent's. `mtu` in octets, 0 = the host's. `label_wait_s`: how long an endpoint stays closed for
    its labels at most."""

    node: str = ""
    namespace: str = "libnetwork"
    interface_prefix: str = "cali"
    creates_profiles: bool = True
    copies_labels: bool = False
    label_wait_s: float = 5.0
    mtu: int = 0
    scope: Scope = Scope.AUTO
    engine_socket: str = "/var/run/docker.sock"
    agent_socket: str = NODE_SOCKET
    plugin_folder: str = "/run/docker/plugins"
    state_folder: str = "/var/lib/calico/libnetwork"
    is_debugging: bool = False


def read(environment: Mapping[str, str]) -> Settings:
    """Raises `BadData`, which names the variable, its value and what it may be."""
    default = Settings()

    def text(name: str) -> str:
        return environment.get(PREFIX + name, "").strip()

    return Settings(
        node=text("HOSTNAME") or environment.get("NODENAME", "").strip(),
        namespace=text("NAMESPACE") or default.namespace,
        interface_prefix=_interface_prefix(text("IFPREFIX") or default.interface_prefix),
        creates_profiles=text("CREATE_PROFILES").lower() != "false",
        copies_labels=text("LABEL_ENDPOINTS").lower() == "true",
        label_wait_s=_label_wait_s(text("LABEL_POLL_TIMEOUT"), default.label_wait_s),
        mtu=_mtu(text("VETH_MTU")),
        scope=_scope(text("SCOPE")),
        engine_socket=_engine_socket(environment.get("DOCKER_HOST", "").strip() or f"unix://{default.engine_socket}"),
        agent_socket=text("AGENT_SOCKET") or default.agent_socket,
        plugin_folder=text("PLUGIN_FOLDER") or default.plugin_folder,
        state_folder=text("STATE_FOLDER") or default.state_folder,
        is_debugging=bool(environment.get("CALICO_DEBUG")),
    )


def _interface_prefix(given: str) -> str:
    if not _IFPREFIX.fullmatch(given):
        raise BadData(f"{PREFIX}IFPREFIX {given[:40]!r}: 1 to 13 letters, digits, '_', '.' and '-' begin a name")
    return given


def _label_wait_s(given: str, default_s: float) -> float:
    if not given:
        return default_s
    try:
        found_s = parse_duration(given) / 1e9
    except ValueError:
        found_s = -1.0
    if found_s < 0:
        log.warning("%sLABEL_POLL_TIMEOUT %r is not a duration such as 5s: %g s it is", PREFIX, given, default_s)
        return default_s
    return found_s


def _mtu(given: str) -> int:
    if not given:
        return 0
    if not _NUMBER.fullmatch(given) or int(given) > LARGEST_MTU:
        raise BadData(f"{PREFIX}VETH_MTU {given[:40]!r}: must be a number of octets from 0 to {LARGEST_MTU}")
    return int(given)


def _scope(given: str) -> Scope:
    try:
        return Scope(given.lower() or "auto")
    except ValueError:
        raise BadData(f"{PREFIX}SCOPE {given[:40]!r}: must be auto, local or global") from None


def _engine_socket(given: str) -> str:
    scheme, separator, path = given.partition("://")
    if not separator or scheme != "unix" or not path.startswith("/"):
        raise BadData(
            f"DOCKER_HOST {given[:80]!r}: the engine is reached by its UNIX socket: unix:///var/run/docker.sock"
        )
    return path
