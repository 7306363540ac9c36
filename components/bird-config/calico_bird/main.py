"""`dcos-calico-confd`: keeps the configuration of BIRD on this node.

All settings are variables: NODENAME, CALICO_ROUTER_ID, those of the datastore, BGP_LOGSEVERITYSCREEN,
CALICO_NODE_SOCKET, CALICO_BIRD_FILE, _SOCKET and _PROGRAM."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from calico_bird.daemon import Daemon, Settings
from calico_bird.following import agent_session, own_session
from libcalico.conventions import NODE_SOCKET
from libcalico.datastore.settings import etcd_config, from_environment
from libcalico.errors import BadData, CalicoError
from libcalico.model.keys import routing_prefixes
from libcalico.obs import logs

log = logging.getLogger(__name__)


def main() -> int:
    """The process; returns the exit status."""
    logs.configure(os.environ.get("BGP_LOGSEVERITYSCREEN") or "info")
    try:
        asyncio.run(_run(settings(os.environ), os.environ))
    except CalicoError as error:
        log.error("%s", error)
        return 1
    return 0


def settings(environment: Mapping[str, str]) -> Settings:
    """What the environment says. Raises `BadData` without a node's name."""
    node = environment.get("NODENAME", "").strip()
    if not node:
        raise BadData("NODENAME is not set: it is this node's name in the datastore")
    default = Settings(node)
    return Settings(
        node,
        environment.get("CALICO_ROUTER_ID", "").strip(),
        Path(environment.get("CALICO_BIRD_FILE") or default.file),
        environment.get("CALICO_BIRD_SOCKET") or default.socket,
        environment.get("CALICO_BIRD_PROGRAM") or default.bird,
    )


async def _run(found: Settings, environment: Mapping[str, str]) -> None:
    try:
        found.file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadData(f"make the folder of {found.file}: {error}") from None
    config = etcd_config(from_environment(environment))
    agent = partial(agent_session, environment.get("CALICO_NODE_SOCKET") or NODE_SOCKET, found.node)
    await Daemon(found, agent, partial(own_session, config, routing_prefixes(found.node))).run()


if __name__ == "__main__":
    sys.exit(main())
