"""`calico-felix teardown`: take away what the agent has made in this host's kernel.

For a host that leaves the cluster, or goes back to upstream's agent. Containers that run on have no policy then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Collection

from calico_felix.dataplane.foreign_watch import ForeignRules
from libcalico.config import Configuration
from libcalico.conventions import VXLAN_DEVICES
from libcalico.kernel.nft import Nft
from libcalico.kernel.objects import RTPROT_BOOT, RTPROT_CALICO
from libcalico.kernel.rtnl import Rtnl
from libcalico.policy.nft.names import TABLE

log = logging.getLogger(__name__)


async def run_teardown(configuration: Configuration, keep_routes: bool) -> int:
    """Accepts in chains of others first, then the table, and unless `keep_routes` tunnels, routes, the MTU file.

    May be repeated."""
    await ForeignRules((), _commit).clear()
    await _commit(f"add table {TABLE}\ndelete table {TABLE}\n")
    if not keep_routes:
        protocols = {RTPROT_CALICO, configuration["DeviceRouteProtocol"]} - {0, RTPROT_BOOT}
        await asyncio.to_thread(_clear_routes, configuration["MTUFile"], protocols)
    log.info("no rules of this agent are left; interfaces of containers go with the containers")
    return 0


async def _commit(text: str) -> None:
    with Nft() as nft:
        nft.run(text)


def _clear_routes(mtu_file: str, protocols: Collection[int]) -> None:
    with Rtnl() as rtnl:
        for device in VXLAN_DEVICES.values():
            rtnl.delete_link(device)
        for family in (socket.AF_INET, socket.AF_INET6):
            for protocol in protocols:
                rtnl.apply_routes(rtnl.routes(family, protocol=protocol), ())
    with contextlib.suppress(FileNotFoundError):
        os.unlink(mtu_file)
