"""`dcos-calico-confd`: keeps the configuration of BIRD on this node.

All settings are variables: NODENAME, CALICO_NETWORKING_BACKEND, CALICO_ROUTER_ID, those of the datastore,
BGP_LOGSEVERITYSCREEN, CALICO_NODE_SOCKET, CALICO_BIRD_FILE, _SOCKET and _PROGRAM, CALICO_CONFD_SECRETS,
_STATUS, _METRICS_HOST and _METRICS_PORT.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from calico_bird.apply import remove_candidates
from calico_bird.daemon import Daemon, Settings
from calico_bird.following import agent_session, own_session
from calico_bird.serving import Address, metrics_address, serve_metrics
from calico_bird.start_bird import find_bird
from libcalico.conventions import NODE_SOCKET, NODENAME_FILE
from libcalico.datastore.settings import EtcdConfig, etcd_config, from_environment
from libcalico.errors import BadData, CalicoError
from libcalico.model.keys import routing_prefixes
from libcalico.obs import logs
from libcalico.text import shown
from libcalico.workload.host_files import read_nodename

log = logging.getLogger(__name__)

BIRD, VXLAN, NONE = "bird", "vxlan", "none"


def main() -> int:
    """The process; returns the exit status."""
    options = _options(sys.argv[1:])
    logs.configure(os.environ.get("BGP_LOGSEVERITYSCREEN") or "info")
    try:
        return asyncio.run(_run(options, os.environ))
    except asyncio.CancelledError:
        return 0
    except CalicoError as error:
        log.error("%s", error)
        return 1


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("dcos-calico-confd", description="Keep BIRD's configuration on this node.")
    parser.add_argument(
        "-confd-run-once",
        "--run-once",
        dest="once",
        action="store_true",
        help="write the file once, have BIRD read it, and end: 1 when it is not what it should be",
    )
    parser.add_argument(
        "-confd-keep-stage-file",
        "--keep-stage-file",
        dest="keep",
        action="store_true",
        help="keep a file that BIRD refuses beside the one that it reads",
    )
    return parser.parse_args(words)  # fmt: skip


def settings(environment: Mapping[str, str], keep_candidate: bool = False) -> Settings:
    """What the environment says, and the nodename file. Raises `BadData` without a node's name."""
    path = environment.get("CALICO_NODENAME_FILE") or NODENAME_FILE
    node = environment.get("NODENAME", "").strip() or read_nodename(path)
    if not node:
        raise BadData(
            f"NODENAME is not set, and {shown(path)} names no node yet: set it to this node's name in the datastore, or"
            " start the agent, which writes the file"
        )
    default = Settings(node)
    return Settings(
        node,
        environment.get("CALICO_ROUTER_ID", "").strip(),
        Path(environment.get("CALICO_BIRD_FILE") or default.file),
        environment.get("CALICO_BIRD_SOCKET") or default.socket,
        find_bird(environment),
        secrets=Path(environment.get("CALICO_CONFD_SECRETS") or default.secrets),
        report=environment.get("CALICO_CONFD_STATUS") or default.report,
        keep_candidate=keep_candidate,
    )


def uses_bird(environment: Mapping[str, str]) -> bool:
    """Does BIRD bring routes to this host? Raises `BadData` for a value that is none."""
    backend = environment.get("CALICO_NETWORKING_BACKEND", "").strip() or BIRD
    if backend not in (BIRD, VXLAN, NONE):
        text = f'CALICO_NETWORKING_BACKEND is "{shown(backend)}": set it to {BIRD}, {VXLAN} or {NONE}, or not at all'
        raise BadData(text)
    return backend == BIRD


async def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if not uses_bird(environment):
        log.info("CALICO_NETWORKING_BACKEND is %s: there is nothing to do", environment["CALICO_NETWORKING_BACKEND"])
        return 0 if options.once else await asyncio.get_running_loop().create_future()
    found, address = settings(environment, options.keep), metrics_address(environment)
    try:
        found.file.parent.mkdir(parents=True, exist_ok=True)
        remove_candidates(found.file)
    except OSError as error:
        raise BadData(f"make the folder of {found.file}: {error}") from None
    daemon = _daemon(found, etcd_config(from_environment(environment)), environment)
    return int(not await daemon.run_once()) if options.once else await _serve(daemon, address)


def _daemon(found: Settings, config: EtcdConfig, environment: Mapping[str, str]) -> Daemon:
    agent = partial(agent_session, environment.get("CALICO_NODE_SOCKET") or NODE_SOCKET, found.node)
    return Daemon(found, agent, partial(own_session, config, routing_prefixes(found.node)))


async def _serve(daemon: Daemon, address: Address | None) -> int:
    async with asyncio.TaskGroup() as group:
        group.create_task(daemon.run())
        if address is not None:
            group.create_task(serve_metrics(address, daemon.figures))
    return 1


if __name__ == "__main__":
    sys.exit(main())
