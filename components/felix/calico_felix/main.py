"""`calico-felix`: the node agent. `calico-felix startup` prepares the node (see `startup`), `calico-felix teardown`
takes away what the agent has made in this host's kernel."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import sys

import calico_native
from calico_felix.configuration import CONFIG_FILE, load_configuration, settle_etcd, settle_node_name
from calico_felix.daemon import RESTART_CODE, Daemon, Sources, banner
from calico_felix.settings_source import RestartNeeded
from calico_felix.startup.names import check_new_name
from calico_felix.startup.sequence import run_startup
from calico_felix.teardown import run_teardown
from libcalico import __version__
from libcalico.config import Configuration
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import EtcdConfig
from libcalico.errors import CalicoError
from libcalico.obs import logs
from libcalico.obs.supervisor import Supervisor

log = logging.getLogger(__name__)

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
        configuration = load_configuration(os.environ, arguments.config_file)
        logs.configure(configuration["LogSeverityScreen"])
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


if __name__ == "__main__":
    sys.exit(main())
