"""The MTU of workloads' interfaces, in the file from which the CNI plug-in takes it (spec/felix.md 4.8, cni.md 4.3).

It is that of the narrowest way by which a workload's packets may leave: the tunnel's, else the host's. The host's is
the smallest of the interfaces that are up and whose names match a pattern, else of the one with the default route.
While nothing is known nothing is written: no file is better than a wrong one.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from libcalico.conventions import IPIP_DEVICE, VXLAN_DEVICES
from libcalico.files import read_regular
from libcalico.kernel.objects import Link
from libcalico.model.go_regex import go_search
from libcalico.workload.plan import LEAST_MTU

log = logging.getLogger(__name__)

HOST_INTERFACES = r"^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)"
"""Upstream's default of MTUIfacePattern."""
OVERHEAD = {VXLAN_DEVICES[4]: 50, VXLAN_DEVICES[6]: 70, IPIP_DEVICE: 20}
"""What a tunnel's headers take of each packet, in octets, by device."""
_HOST_INTERFACES = re.compile(HOST_INTERFACES)


def matching_mtus(links: Iterable[Link], pattern: str) -> list[int]:
    """Those of the interfaces that are up and whose names match, in octets."""
    matches = _HOST_INTERFACES.search if pattern == HOST_INTERFACES else go_search(pattern)
    return [link.mtu for link in links if link.up and link.mtu and matches(link.name)]


def host_mtu(links: Collection[Link], pattern: str, default_device: int) -> int:
    """The smallest of the host's interfaces, in octets; 0 when it is not known."""
    by_default = (link.mtu for link in links if link.up and link.mtu and link.ifindex == default_device)
    return min(matching_mtus(links, pattern) or by_default, default=0)


def workload_mtu(host: int, tunnels: Mapping[str, int]) -> int:
    """`tunnels`: the MTU of each tunnel device that is wanted, 0 when it is not there yet; 0 when it is not known."""
    ways = [mtu or (host - OVERHEAD[device] if host else 0) for device, mtu in tunnels.items()]
    found = min(ways, default=host)
    return found if found >= LEAST_MTU else 0


class MtuFile:
    """The file; whoever reads it sees the old number or the new one."""

    def __init__(self, path: str) -> None:
        """Without a path nothing is written."""
        self._path = path
        self._written = 0
        self.problem = ""

    def write(self, mtu: int) -> None:
        """Write an MTU unless it stands there already; a failure is kept in `problem`."""
        if not self._path or not mtu or (mtu == self._written and self._holds(mtu)):
            return
        try:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._replace(f"{mtu}\n")
        except OSError as error:
            problem = f"{self._path} cannot be written, so the MTU of new workloads is not {mtu}: {error.strerror}"
            if problem != self.problem:
                log.warning("%s", problem)
            self.problem = problem
            return
        log.info("workloads' interfaces get the MTU %d", mtu)
        self._written, self.problem = mtu, ""

    def _holds(self, mtu: int) -> bool:
        try:
            return read_regular(self._path).strip() == str(mtu).encode()
        except OSError:
            return False

    def _replace(self, text: str) -> None:
        number, path = tempfile.mkstemp(prefix=".mtu-", dir=Path(self._path).parent)
        try:
            with os.fdopen(number, "w", encoding="ascii") as file:
                file.write(text)
            os.chmod(path, 0o644)
            os.replace(path, self._path)
        except OSError:
            os.unlink(path)
            raise
