"""`calico-felix`: the node agent. `calico-felix startup` prepares the node (see `startup`), `calico-felix teardown`
takes away what the agent has made in this host's kernel."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import sys
from collections.abc import Mapping
from typing import Any

import calico_native
from calico_felix.daemon import RESTART_CODE, Daemon, Sources, banner
from calico_felix.foreign import FOREIGN
from calico_felix.parameters import PARAMETERS
from calico_felix.settings_source import RestartNeeded
from calico_felix.startup.names import check_new_name, find_node_name
from calico_felix.startup.sequence import run_startup
from calico_felix.teardown import run_teardown
from libcalico import __version__
from libcalico.config import Configuration, Value
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import SETTINGS, EtcdConfig, Found, etcd_config, first_of, from_environment, name_of
from libcalico.errors import CalicoError
from libcalico.obs import logs
from libcalico.obs.supervisor import Supervisor

log = logging.getLogger(__name__)

CERTIFICATES = ("EtcdCaFile", "EtcdCertFile", "EtcdKeyFile")
CONFIG_FILE = "/etc/calico/felix.cfg"
NO_ENDPOINTS = "the default: EtcdEndpoints is not set"
RESTART_PAUSE_S = 2.0
DESCRIPTORS = 65536


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="calico-felix", description="Calico's node agent")
    parser.add_argument("command", nargs="?", choices=("run", "startup", "teardown"), default="run")
    parser.add_argument("-c", "--config-file", default=CONFIG_FILE, help="INI file with parameters")
    parser.add_argument("--keep-routes", action="store_true", help="teardown: another agent uses routes and tunnels")
    parser.add_argument("--version", action="version", version=f"calico-felix {__version__}")
    arguments = parser.parse_args(argv)
    logs.configure(os.environ.get("FELIX_LOGSEVERITYSCREEN") or "info")
    try:
        configuration = AgentConfiguration()
        configuration.load_environment(os.environ, "FELIX_")
        is_there = configuration.load_file(arguments.config_file)
        configuration.resolve()
        logs.configure(configuration["LogSeverityScreen"])
        if not is_there and arguments.config_file != CONFIG_FILE:
            log.warning("the configuration file %s is not there", arguments.config_file)
        for warning in configuration.news():
            log.warning("%s", warning)
        if arguments.command == "teardown":
            return asyncio.run(run_teardown(configuration, arguments.keep_routes))
        host = settle_node_name(configuration, os.environ)
        etcd = settle_etcd(configuration, os.environ, arguments.config_file)
        if arguments.command == "startup":
            check_new_name(host, configuration.values["FelixHostname"].source)
            return asyncio.run(run_startup(EtcdDatastore, etcd, host, os.environ, ipv6=configuration["IPv6Support"]))
        raise_descriptor_limit()
        return asyncio.run(_run(host, configuration, etcd))
    except CalicoError as error:
        log.error("%s", ": ".join([str(error), *getattr(error, "__notes__", ())]))
        return 1


def raise_descriptor_limit() -> None:
    """Clients of our sockets must not use up the 1,024 descriptors that a process has by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(host: str, configuration: Configuration, etcd: EtcdConfig) -> int:
    log.info("%s", banner(host, calico_native.implementation))
    datastore = EtcdDatastore(etcd)
    try:
        supervisor = Supervisor(os.environ.pop("NOTIFY_SOCKET", ""))
        supervisor.status(f"reading datastore {datastore.endpoint}")
        await Daemon(Sources(host, configuration, datastore, supervisor)).run()
        return 0
    except RestartNeeded as error:
        log.warning("restarting: %s", error)
        await asyncio.sleep(RESTART_PAUSE_S)
        return RESTART_CODE
    finally:
        await datastore.close()


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


if __name__ == "__main__":
    sys.exit(main())
