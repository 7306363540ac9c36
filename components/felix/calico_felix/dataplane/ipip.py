"""The IPIP device of this host (spec/felix.md 4.8).

It is of IPv4 only, and has no entries for other hosts: the routes through it name them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket

from calico_felix.dataplane.interfaces import Interfaces
from calico_felix.dataplane.manager import Context, LinkChange, Manager
from calico_felix.dataplane.mtu import OVERHEAD
from calico_felix.dataplane.underlay import Underlay
from libcalico.calc.messages import Flush
from libcalico.conventions import IPIP_DEVICE
from libcalico.kernel.devices import create_device, ipip_request
from libcalico.kernel.errors import KernelError
from libcalico.kernel.objects import Address, Link
from libcalico.kernel.rtnl import Rtnl
from libcalico.reconcile import Backoff

log = logging.getLogger(__name__)

CHECK_S = 10.0
RETRY = Backoff(1.0, 60.0)
NO_SUCH_DEVICE = frozenset({errno.EOPNOTSUPP, errno.ENODEV, errno.EAFNOSUPPORT, errno.ENOENT})
"""What a kernel without the module ipip answers, and one that cannot load it."""


class Ipip(Manager):
    """`tunl0`, while pools want it and this host has an address in it. The kernel keeps the device for ever: when no
    pool wants it any more it loses its addresses."""

    def __init__(self, context: Context, interfaces: Interfaces, underlay: Underlay) -> None:
        self._context = context
        self._interfaces = interfaces
        self._underlay = underlay
        self._pools: tuple[str, ...] = ()
        self._address = ""
        self._ours = ""
        """What we have given it, with its length."""
        self._failures = 0
        self._problem = ""
        self._check_at_s = 0.0
        self._below = 0
        self.device: Link | None = None
        self.generation = 0
        """Grows when the device is another one."""

    def on_flush(self, flush: Flush) -> None:
        """Pools want it, or do not any more; this host's address in it is another."""
        if flush.pools is not None and flush.pools.ipip != self._pools:
            self._pools, self._failures, self._check_at_s = flush.pools.ipip, 0, 0.0
        own = flush.hosts.get(self._context.config.host)
        if self._context.config.host in flush.hosts:
            self._address, self._check_at_s = own.ipip if own is not None else "", 0.0

    def on_link(self, change: LinkChange) -> None:
        """The module was loaded, say; or another process has set the device down."""
        if change.link.name == IPIP_DEVICE:
            self._check_at_s = 0.0

    def on_forgotten(self, ifindex: int) -> None:
        """Its addresses may be others."""
        if not ifindex or self.uses(ifindex):
            self._check_at_s = 0.0

    def uses(self, ifindex: int) -> bool:
        """It is our device."""
        return self.device is not None and self.device.ifindex == ifindex

    def mtus(self) -> dict[str, int]:
        """Its MTU in octets while it is wanted, 0 when it is not there yet."""
        mtu = self._context.config.ipip_mtu or (self.device.mtu if self.device is not None else 0)
        return {IPIP_DEVICE: mtu} if self._pools else {}

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until the next look."""
        return max(0.0, self._check_at_s - now_s) if self._pools or self.device is not None else None

    async def apply(self, now_s: float) -> None:
        """Make it, or take its addresses away."""
        if now_s < self._check_at_s and self._below == self._underlay.generation:
            return
        self._check_at_s, self._below = now_s + CHECK_S, self._underlay.generation
        try:
            link = await self._ensure()
        except KernelError as error:
            self._on_failure(error, now_s)
            return
        if self._problem:
            log.info("device %s is there", IPIP_DEVICE)
        self._problem, self._failures = "", 0
        self._take(link)

    def _take(self, link: Link | None) -> None:
        if link != self.device:
            self.device = link
            self.generation += 1

    def _on_failure(self, error: KernelError, now_s: float) -> None:
        """Said once, however often it is tried again."""
        if error.errno in NO_SUCH_DEVICE or not error.errno:  # else it may be there, and its routes work
            self._take(None)
        self._failures += 1
        self._check_at_s = now_s + RETRY.pause_s(self._failures)
        problem = self._missing() if error.errno in NO_SUCH_DEVICE else str(error)
        if problem != self._problem:
            self._context.failures.count += 1
            log.error("%s", problem)
        self._problem = problem

    def _missing(self) -> str:
        names = ", ".join(self._pools)
        return (
            f"pool {names} wants IPIP, and this kernel has no ipip device: load the module ipip (`modprobe ipip`) or "
            "change ipipMode; there are no routes to other hosts' addresses of the pool until then"
        )

    async def _ensure(self) -> Link | None:
        if not self._pools or not self._address:
            await self._withdraw()
            return None
        way = self._underlay.way(4)
        if way is None:
            return None
        run = self._context.handles.netlink.run
        link = await run(Rtnl.link, IPIP_DEVICE)
        if link is None:
            request = await asyncio.to_thread(ipip_request, IPIP_DEVICE)
            await run(create_device, IPIP_DEVICE, request)
            link = await run(Rtnl.link, IPIP_DEVICE)
        if link is None:
            raise KernelError(f"make device {IPIP_DEVICE}", errno.ENODEV)
        if link.kind != "ipip":
            raise KernelError(f"take device {IPIP_DEVICE}", detail=f"it is of kind {link.kind or 'unknown'}, not ipip")
        mtu = self._context.config.ipip_mtu or self._underlay.mtu(way) - OVERHEAD[IPIP_DEVICE]
        link = await run(Rtnl.bring_up, link, mtu)
        self._ours = f"{self._address}/32"
        await run(Rtnl.ensure_only_address, link.ifindex, [self._ours], socket.AF_INET)
        self._interfaces.put(link)
        return link

    async def _withdraw(self) -> None:
        """Of what is on the device only the address that it has for us goes."""
        run = self._context.handles.netlink.run
        if self._ours and (device := await run(Rtnl.link, IPIP_DEVICE)) is not None:
            await run(Rtnl.delete_address, Address(device.ifindex, self._ours))
        self._ours = ""

    def pending(self) -> list[str]:
        """Why it is not there."""
        return [f"device {IPIP_DEVICE}: {self._problem}"] if self._problem else []
