"""Which tunnels this host has: those that the pools want, as far as the settings allow, and those on their way out.

A pool's encapsulation changes on all hosts, but not at the same moment. So a tunnel that no pool wants any more stands
for a while, with the ends of other hosts and with its rules: who has not heard yet still sends through it. The other
half is in `routes`: a destination that had another way goes through a new tunnel a little later, when the other end
has had the time to make it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from calico_felix.dataplane.manager import Context, Manager
from libcalico.calc.messages import Flush, NodeAddresses, Pools, Vtep
from libcalico.conventions import IPIP_DEVICE, VXLAN_DEVICES

LINGER_S = 10.0
SETTINGS = "FelixConfiguration"
ADDRESSES = {
    VXLAN_DEVICES[4]: "spec.ipv4VXLANTunnelAddr",
    VXLAN_DEVICES[6]: "spec.ipv6VXLANTunnelAddr",
    IPIP_DEVICE: "spec.bgp.ipv4IPIPTunnelAddr",
}
"""The member of a Node that holds its address in each tunnel."""
NOTHING = Flush({}, {}, {}, {}, {}, None, None, 0)
TunnelEnd = tuple[str, int]


class Encapsulations(Manager):
    """Stands at the door (`admit`): all managers see a tunnel go only when its time is over (`deliver`)."""

    def __init__(self, context: Context, deliver: Callable[[Flush], None]) -> None:
        self._context = context
        self._deliver = deliver
        self._asked: Pools | None = None
        """What the graph said last."""
        self._ipip: tuple[str, ...] = ()
        """The pools that want IPIP, or wanted it until lately."""
        self._until_s: dict[str, float] = {}
        """The tunnels that go, by their devices, and when."""
        self._ends_gone: set[TunnelEnd] = set()
        self._own: NodeAddresses | None = None
        self._own_ends: set[str] = set()
        """The devices for which this node has an address."""

    def admit(self, flush: Flush) -> Flush:
        """The flush as the managers are to see it."""
        if flush.pools is not None:
            self._note_gone(self._devices(self._effective(flush.pools)))
            self._asked = flush.pools
        flush = flush._replace(vteps=self._hold_ends(flush.vteps), hosts=self._hold_own(flush.hosts))
        if flush.pools is not None:
            flush = flush._replace(pools=self._with_lingering(flush.pools))
        return flush

    def _effective(self, pools: Pools) -> Pools:
        """With what the settings force on and off."""
        config = self._context.config
        vxlan, ipip = pools.vxlan, pools.ipip
        if config.vxlan_enabled is not None:
            vxlan = vxlan | {4} if config.vxlan_enabled else frozenset()
        if config.ipip_enabled is not None:
            ipip = (ipip or (SETTINGS,)) if config.ipip_enabled else ()
        return pools._replace(vxlan=vxlan, ipip=ipip)

    @staticmethod
    def _devices(pools: Pools) -> set[str]:
        return {VXLAN_DEVICES[family] for family in pools.vxlan} | ({IPIP_DEVICE} if pools.ipip else set())

    def _note_gone(self, wanted: set[str]) -> None:
        former = set() if self._asked is None else self._devices(self._effective(self._asked))
        until_s = self._context.clock.monotonic_s() + LINGER_S
        for device in former - wanted:
            self._until_s[device] = until_s
        for device in wanted & self._until_s.keys():
            del self._until_s[device]

    def _with_lingering(self, pools: Pools) -> Pools:
        pools = self._effective(pools)
        families = {family for family, device in VXLAN_DEVICES.items() if device in self._until_s}
        if pools.ipip or IPIP_DEVICE not in self._until_s:
            self._ipip = pools.ipip
        return pools._replace(vxlan=pools.vxlan | families, ipip=self._ipip)

    def _hold_ends(self, vteps: Mapping[TunnelEnd, Vtep | None]) -> dict[TunnelEnd, Vtep | None]:
        """Ends that are gone, of a tunnel that goes as well, stay until it does."""
        self._ends_gone -= vteps.keys()
        for family, device in VXLAN_DEVICES.items():
            if (self._context.config.host, family) in vteps:
                self._note_own(device, vteps[self._context.config.host, family] is not None)
        held = {key for key, vtep in vteps.items() if vtep is None and VXLAN_DEVICES[key[1]] in self._until_s}
        self._ends_gone |= held
        freed = {key for key in self._ends_gone if VXLAN_DEVICES[key[1]] not in self._until_s}
        self._ends_gone -= freed
        return {**dict.fromkeys(freed), **{key: vtep for key, vtep in vteps.items() if key not in held}}

    def _hold_own(self, hosts: Mapping[str, NodeAddresses | None]) -> Mapping[str, NodeAddresses | None]:
        host = self._context.config.host
        own = hosts.get(host)
        if own is None:
            if host in hosts:
                self._own = None
                self._note_own(IPIP_DEVICE, False)
            return hosts
        former, self._own = self._own, own
        self._note_own(IPIP_DEVICE, bool(own.ipip))
        if own.ipip or former is None or IPIP_DEVICE not in self._until_s:
            return hosts
        return {**hosts, host: own._replace(ipip=former.ipip)}

    def _note_own(self, device: str, is_there: bool) -> None:
        (self._own_ends.add if is_there else self._own_ends.discard)(device)

    async def apply(self, now_s: float) -> None:
        """The managers see those go whose time is over."""
        over = [device for device, until_s in self._until_s.items() if now_s >= until_s]
        if not over or self._asked is None:
            return
        for device in over:
            del self._until_s[device]
        host = self._context.config.host
        hosts = {host: self._own} if self._own is not None and IPIP_DEVICE in over else {}
        self._deliver(NOTHING._replace(pools=self._asked, hosts=hosts))

    def next_try_s(self, now_s: float) -> float | None:
        """Seconds until the next one goes."""
        return max(0.0, min(self._until_s.values()) - now_s) if self._until_s else None

    def pending(self) -> list[str]:
        """Tunnels without which the pools' packets have no way, and which wait for this node's address in them."""
        wanted = set() if self._asked is None else self._devices(self._effective(self._asked))
        return [
            f"device {device}: node {self._context.config.host} has no {ADDRESSES[device]}: "
            "`calico-node -allocate-tunnel-addrs` allocates and stores it"
            for device in sorted(wanted - self._own_ends)
        ]
