"""What looks wrong, in plain words, from what was collected. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from libcalico.bird.names import parse_session_name
from libcalico.bird.replies import Protocol
from libcalico.datastore.health import MemberHealth
from libcalico.text import shown

SKEW_S = 5.0
"""Clocks of two hosts may differ by that; etcd's date has whole seconds."""
MOST_NAMED = 20
DEVICES = {("ipipMode", 4): "tunl0", ("vxlanMode", 4): "vxlan.calico", ("vxlanMode", 6): "vxlan-v6.calico"}
TUNNELS = {"ipipMode": "ipv4IPIPTunnelAddr", "vxlanMode": "ipv4VXLANTunnelAddr"}


class Finding(NamedTuple):
    """One thing that looks wrong, and the file of the archive to read."""

    text: str
    file: str


def agent(is_running: bool, status: Mapping[str, Any], failure: str) -> Iterator[Finding]:
    """The agent of this host: `status` is what it says of itself, `failure` why it says nothing."""
    if not is_running:
        yield Finding("the agent (calico-felix) does not run: nothing new is programmed on this host", "processes")
    if failure:
        if is_running:
            yield Finding(f"the agent runs and does not answer: {failure}", "agent_status")
        return
    if not status.get("connected"):
        yield Finding(
            f"the agent is not connected to etcd: {status.get('reason') or 'no reason given'}", "agent_status"
        )
    elif not status.get("in_sync"):
        yield Finding(f"the agent is not ready: {status.get('reason') or 'it is not in sync yet'}", "agent_status")
    behind = int(status.get("datastore_revision", 0)) - int(status.get("programmed_revision", 0))
    if status.get("in_sync") and behind > 0:
        yield Finding(f"the kernel is {behind} revisions behind what the agent has seen", "agent_pending")


def lines(text: str, file: str, what: str) -> Iterator[Finding]:
    """Each line of an answer of the agent's is something wrong; `nothing` is none."""
    found = [line.strip() for line in text.splitlines() if line.strip() and line.strip() != "nothing"]
    for line in found[:MOST_NAMED]:
        yield Finding(f"{what}: {shown(line, 300)}", file)
    if len(found) > MOST_NAMED:
        yield Finding(f"{what}: {len(found) - MOST_NAMED} more", file)


def sessions(protocols: Iterable[Protocol], failure: str, is_running: bool, is_wanted: bool) -> Iterator[Finding]:
    """BIRD and its sessions; `is_wanted`: this host has a configuration for it."""
    if failure:
        if is_running:
            yield Finding(f"BIRD runs and does not answer: {failure}", "bird_protocols")
        elif is_wanted:
            yield Finding("BIRD does not run, although this host has a configuration for it", "bird_protocols")
        return
    for one in protocols:
        name = parse_session_name(one.name) if one.kind == "BGP" else None
        if name is not None and not one.info.startswith("Established"):
            info = " ".join(one.info.split()) or one.state
            yield Finding(f"the BGP session with {name.peer} is down since {one.since}: {info}", "bird_protocols")


def etcd(members: Iterable[MemberHealth], now_s: float) -> Iterator[Finding]:
    """The endpoints of etcd, and their clocks."""
    for one in members:
        if one.problem:
            yield Finding(f"the etcd member at {one.url} cannot be used: {one.problem}", "etcd")
        elif one.clock_s and abs(one.clock_s - now_s) > SKEW_S:
            ahead = "ahead of" if now_s > one.clock_s else "behind"
            yield Finding(
                f"this host's clock is {abs(one.clock_s - now_s):.0f} s {ahead} that of etcd at {one.url}", "etcd"
            )


def devices(pools: Iterable[Mapping[str, Any]], present: Sequence[str]) -> Iterator[Finding]:
    """Pools that want an encapsulation, on a host without its device."""
    for pool in pools:
        spec = pool.get("spec", {})
        family = 6 if ":" in spec.get("cidr", "") else 4
        for (member, of), device in DEVICES.items():
            if of == family and spec.get(member, "Never") != "Never" and device not in present:
                name = pool["metadata"]["name"]
                text = f"the pool {name} has {member} {spec[member]}, and the device {device} is missing"
                yield Finding(text, "links")


def forwarding(value: str) -> Iterator[Finding]:
    """The kernel's switch for IPv4."""
    if value.strip() == "0":
        yield Finding("net.ipv4.ip_forward is 0: this host forwards nothing for its containers", "sysctl")


def failed_units(text: str) -> Iterator[Finding]:
    """What systemd lists as failed."""
    for line in text.splitlines():
        words = line.replace("●", " ").split()
        if len(words) > 3 and "failed" in words[1:4]:
            yield Finding(f"the unit {words[0]} has failed", "journalctl_calico_node")


def nodes(found: Sequence[Mapping[str, Any]], pools: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Node objects: addresses, which two must not share, and those of tunnels."""
    owners: dict[str, str] = {}
    for node in found:
        name, spec = node["metadata"]["name"], node.get("spec", {})
        bgp = spec.get("bgp", {})
        addresses = [bgp[key].partition("/")[0] for key in ("ipv4Address", "ipv6Address") if bgp.get(key)]
        if not addresses:
            yield Finding(f"the node {name} has no address: no host has routes to its workloads", "resources/Node.yaml")
        for address in addresses:
            other = owners.setdefault(address, name)
            if other != name:
                yield Finding(f"the nodes {other} and {name} have one address, {address}", "resources/Node.yaml")
        for mode, tunnel in TUNNELS.items():
            wants = [
                one for one in pools if one["spec"].get(mode, "Never") != "Never" and ":" not in one["spec"]["cidr"]
            ]
            holder = bgp if mode == "ipipMode" else spec
            if wants and addresses and not holder.get(tunnel):
                pool = wants[0]["metadata"]["name"]
                text = f"the node {name} has no tunnel address ({tunnel}), which the pool {pool} wants by its {mode}"
                yield Finding(text, "resources/Node.yaml")


def heartbeats(known: Iterable[str], seen_s: Mapping[str, float], now_s: float, ttl_s: float) -> Iterator[Finding]:
    """Agents by what they last reported, as times by their own clocks; a report vanishes by itself after `ttl_s`."""
    for name in known:
        if name not in seen_s:
            yield Finding(
                f"the agent of node {name} has not reported for a while: it, or its way to etcd, is down", "agents"
            )
        elif seen_s[name] - now_s > SKEW_S:
            yield Finding(f"the clock of node {name} is {seen_s[name] - now_s:.0f} s ahead of this one", "agents")
        elif now_s - seen_s[name] > ttl_s + SKEW_S:
            yield Finding(f"the clock of node {name} is about {now_s - seen_s[name]:.0f} s behind this one", "agents")


def unknown(keys: Sequence[str], damaged: Sequence[str]) -> Iterator[Finding]:
    """Keys below Calico's prefix that are none of ours, and objects that cannot be read."""
    for key in damaged[:MOST_NAMED]:
        yield Finding(f"a stored object cannot be read, and counts as absent: {shown(key)}", "unknown_keys")
    if len(damaged) > MOST_NAMED:
        yield Finding(f"{len(damaged) - MOST_NAMED} more stored objects cannot be read", "unknown_keys")
    if keys:
        names = ", ".join(shown(key, 80) for key in keys[:3])
        yield Finding(f"{len(keys)} keys below /calico are of no kind that we know: {names}", "unknown_keys")
