"""What the agent's own settings come to before the datastore is asked, and where each value comes from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from calico_felix.foreign import FOREIGN
from calico_felix.parameters import PARAMETERS
from calico_felix.startup.names import find_node_name
from libcalico.config import Configuration, Value
from libcalico.datastore.settings import SETTINGS, EtcdConfig, Found, etcd_config, first_of, from_environment, name_of

log = logging.getLogger(__name__)

CERTIFICATES = ("EtcdCaFile", "EtcdCertFile", "EtcdKeyFile")
CONFIG_FILE = "/etc/calico/felix.cfg"
NO_ENDPOINTS = "the default: EtcdEndpoints is not set"


class AgentConfiguration(Configuration):
    """The agent's parameters, some of which come from more places than the four sources that every parameter has."""

    def __init__(self) -> None:
        self._settled: dict[str, Value] = {}
        super().__init__(PARAMETERS, FOREIGN)

    def settle(self, name: str, value: Any, source: str) -> None:
        """Put a value in force for good; only for what the datastore may not set."""
        self._settled[name] = self.values[name] = Value(value, source)

    def resolve(self) -> set[str]:
        """As every configuration does; what is settled stays."""
        changed = super().resolve()
        self.values.update(self._settled)
        return changed - self._settled.keys()


def load_configuration(environment: Mapping[str, str], path: str = CONFIG_FILE) -> AgentConfiguration:
    """What the environment and the file say. Raises `BadData` for a file that cannot be read, and for a value that
    must stop the agent."""
    configuration = AgentConfiguration()
    configuration.load_environment(environment, "FELIX_")
    if not configuration.load_file(path) and path != CONFIG_FILE:
        log.warning("the configuration file %s is not there", path)
    configuration.resolve()
    return configuration


def settle_node_name(configuration: AgentConfiguration, environment: Mapping[str, str]) -> str:
    """This node's name: configured, NODENAME, the nodename file, else the host name in lower case."""
    if not configuration["FelixHostname"]:
        configuration.settle("FelixHostname", *find_node_name(environment))
    return str(configuration["FelixHostname"])


def settle_etcd(configuration: AgentConfiguration, environment: Mapping[str, str], path: str = "") -> EtcdConfig:
    """How to reach etcd: the agent's own parameters, else the variables that every client knows.

    `path`: the configuration file. What is settled is what `config` of the debug commands shows."""
    own = _own_settings(configuration, path)
    settings = first_of(own, from_environment(environment))
    if own.keys() >= {"EtcdAddr"} and "etcdEndpoints" not in own:
        settings["etcdEndpoints"] = own["EtcdAddr"]
    elif not settings.keys() & {"etcdEndpoints", "etcdDiscoverySrv", "EtcdAddr"}:
        settings["etcdEndpoints"] = Found(configuration["EtcdAddr"], NO_ENDPOINTS)
    etcd = etcd_config(settings)
    configuration.settle("EtcdEndpoints", etcd.endpoints, etcd.source)
    for one in SETTINGS:
        if one.parameter in CERTIFICATES and one.member in settings:
            configuration.settle(one.parameter, *settings[one.member])
    return etcd


def _own_settings(configuration: Configuration, path: str) -> dict[str, Found]:
    """The parameters that are set, each with the variable or the file that sets it."""
    found = {}
    for one in SETTINGS:
        given = configuration.values.get(one.parameter)
        if given is None or given.source == "default" or not given.value:
            continue
        text = ",".join(given.value) if isinstance(given.value, tuple) else str(given.value)
        is_variable = given.source == "environment"
        source = f"FELIX_{one.parameter.upper()}" if is_variable else f"{one.parameter} in {path}"
        found[name_of(one)] = Found(text, source)
    return found
