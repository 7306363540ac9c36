"""`calico-felix`: the node agent. `calico-felix startup` prepares the node (see `startup`)."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import calico_native
from calico_felix.daemon import RESTART_CODE, Daemon, RestartNeeded, Sources, banner
from calico_felix.parameters import PARAMETERS
from calico_felix.startup import run_startup
from libcalico import __version__
from libcalico.config import Configuration
from libcalico.datastore.etcd import EtcdConfig, EtcdDatastore, read_pem
from libcalico.errors import BadData, CalicoError
from libcalico.obs import logs

log = logging.getLogger(__name__)

NODENAME_FILE = "/var/lib/calico/nodename"
RESTART_PAUSE_S = 2.0


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="calico-felix", description="Calico's node agent")
    parser.add_argument("command", nargs="?", choices=("run", "startup"), default="run")
    parser.add_argument("-c", "--config-file", default="/etc/calico/felix.cfg", help="INI file with parameters")
    parser.add_argument("--version", action="version", version=f"calico-felix {__version__}")
    arguments = parser.parse_args(argv)
    logs.configure(os.environ.get("FELIX_LOGSEVERITYSCREEN") or "info")
    try:
        configuration = Configuration(PARAMETERS)
        configuration.load_environment(os.environ, "FELIX_")
        configuration.load_file(arguments.config_file)
        configuration.resolve()
        logs.configure(configuration["LogSeverityScreen"])
        host = node_name(configuration["FelixHostname"], os.environ)
        etcd = etcd_config(configuration, os.environ)
        if arguments.command == "startup":
            return asyncio.run(run_startup(EtcdDatastore, etcd, host, os.environ))
        return asyncio.run(_run(host, configuration, etcd))
    except CalicoError as error:
        log.error("%s", error)
        return 1


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


def node_name(configured: str, environment: Mapping[str, str]) -> str:
    """This node's name: configured, NODENAME, the nodename file, else the host name in lower case."""
    if configured or environment.get("NODENAME", "").strip():
        return configured or environment["NODENAME"].strip()
    path = Path(environment.get("CALICO_NODENAME_FILE") or NODENAME_FILE)
    if path.is_file():
        return path.read_text().strip()
    return (environment.get("HOSTNAME") or socket.gethostname()).strip().lower()


def etcd_config(configuration: Configuration, environment: Mapping[str, str]) -> EtcdConfig:
    """Where etcd is: the agent's own parameters, else the variables that every client knows."""
    endpoints = configuration["EtcdEndpoints"]
    if not endpoints and configuration.values["EtcdAddr"].source == "default":
        text = environment.get("CALICO_ETCD_ENDPOINTS") or environment.get("ETCD_ENDPOINTS") or ""
        endpoints = tuple(part.strip() for part in text.split(",") if part.strip())
    if not endpoints:
        endpoints = (f"{configuration['EtcdScheme']}://{configuration['EtcdAddr']}",)
    authority, certificate, key = (
        configuration[parameter] or environment.get(variable, "")
        for parameter, variable in (
            ("EtcdCaFile", "ETCD_CA_CERT_FILE"),
            ("EtcdCertFile", "ETCD_CERT_FILE"),
            ("EtcdKeyFile", "ETCD_KEY_FILE"),
        )
    )
    if bool(certificate) != bool(key):
        raise BadData("EtcdCertFile and EtcdKeyFile must be given together")
    return EtcdConfig(
        endpoints,
        ca_certificate=read_pem(authority) if authority else None,
        certificate=read_pem(certificate) if certificate else None,
        key=read_pem(key) if key else None,
    )


if __name__ == "__main__":
    sys.exit(main())
