"""`calico-felix`: the node agent. `calico-felix startup` prepares the node (see `startup`)."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import calico_native
from calico_felix.daemon import RESTART_CODE, Daemon, RestartNeeded, Sources, banner
from calico_felix.foreign import FOREIGN
from calico_felix.parameters import PARAMETERS
from calico_felix.startup import run_startup
from libcalico import __version__
from libcalico.config import Configuration, Value, words
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore, read_pem
from libcalico.errors import BadData, CalicoError
from libcalico.obs import logs

log = logging.getLogger(__name__)

CERTIFICATES = {
    "EtcdCaFile": "ETCD_CA_CERT_FILE",
    "EtcdCertFile": "ETCD_CERT_FILE",
    "EtcdKeyFile": "ETCD_KEY_FILE",
}
ENDPOINT_VARIABLES = ("CALICO_ETCD_ENDPOINTS", "ETCD_ENDPOINTS")
CONFIG_FILE = "/etc/calico/felix.cfg"
NODENAME_FILE = "/var/lib/calico/nodename"
RESTART_PAUSE_S = 2.0
DESCRIPTORS = 65536


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="calico-felix", description="Calico's node agent")
    parser.add_argument("command", nargs="?", choices=("run", "startup"), default="run")
    parser.add_argument("-c", "--config-file", default=CONFIG_FILE, help="INI file with parameters")
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
        host = settle_node_name(configuration, os.environ)
        etcd = settle_etcd(configuration, os.environ)
        if arguments.command == "startup":
            return asyncio.run(run_startup(EtcdDatastore, etcd, host, os.environ))
        raise_descriptor_limit()
        return asyncio.run(_run(host, configuration, etcd))
    except CalicoError as error:
        log.error("%s", error)
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
        await Daemon(Sources(host, configuration, datastore)).run()
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
        configuration.settle("FelixHostname", *_find_node_name(environment))
    return str(configuration["FelixHostname"])


def _find_node_name(environment: Mapping[str, str]) -> tuple[str, str]:
    """The name, and where it comes from."""
    if name := environment.get("NODENAME", "").strip():
        return name, "environment: NODENAME"
    path = Path(environment.get("CALICO_NODENAME_FILE") or NODENAME_FILE)
    if path.is_file():
        return path.read_text().strip(), str(path)
    return (environment.get("HOSTNAME") or socket.gethostname()).strip().lower(), "host name"


def settle_etcd(configuration: AgentConfiguration, environment: Mapping[str, str]) -> EtcdConfig:
    """Where etcd is: the agent's own parameters, else the variables that every client knows."""
    if not configuration["EtcdEndpoints"]:
        configuration.settle("EtcdEndpoints", *_find_endpoints(configuration, environment))
    for name, variable in CERTIFICATES.items():
        if not configuration[name] and environment.get(variable):
            configuration.settle(name, environment[variable], f"environment: {variable}")
    authority, certificate, key = (configuration[name] for name in CERTIFICATES)
    if bool(certificate) != bool(key):
        raise BadData("EtcdCertFile and EtcdKeyFile must be given together")
    return EtcdConfig(
        configuration["EtcdEndpoints"],
        ca_certificate=read_pem(authority) if authority else None,
        certificate=read_pem(certificate) if certificate else None,
        key=read_pem(key) if key else None,
    )


def _find_endpoints(configuration: Configuration, environment: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """The endpoints, and where they come from."""
    if configuration.values["EtcdAddr"].source == "default":
        variable = next((name for name in ENDPOINT_VARIABLES if environment.get(name)), "")
        if endpoints := words(environment.get(variable, "")):
            return endpoints, f"environment: {variable}"
    return (f"{configuration['EtcdScheme']}://{configuration['EtcdAddr']}",), "EtcdScheme, EtcdAddr"


if __name__ == "__main__":
    sys.exit(main())
