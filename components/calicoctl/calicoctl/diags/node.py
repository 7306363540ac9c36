"""What is collected of a node: of the kernel, the services, the agent, BIRD and the files (spec/calicoctl.md 7.2)."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from calicoctl import processes, session
from calicoctl.commands import node_debug
from calicoctl.diags import findings
from calicoctl.diags.collect import Item, Wanted, in_thread, read_file
from calicoctl.diags.findings import Finding
from libcalico.bird.control import ask, find_socket
from libcalico.bird.replies import Line, Protocol, parse_protocols
from libcalico.client import connection
from libcalico.conventions import NODE_SOCKET
from libcalico.datastore.health import MemberHealth, look, none_serves
from libcalico.errors import CalicoError
from libcalico.model import to_json

PROBE_S = 1.0
BIRD_S = 5.0
UNITS = ("calico*", "dcos-calico*")
AGENT_LOG_LINES = "5000"
COMMANDS = (
    Wanted("date", "the time of this host", ("date", "-u", "+%Y-%m-%dT%H:%M:%SZ")),
    Wanted("hostname", "its name", ("hostname",)),
    Wanted("uname", "its kernel", ("uname", "-a")),
    Wanted("clock", "its clock: is it synchronised?", ("timedatectl",)),
    Wanted("ipv4_route", "routes (IPv4), of all tables", ("ip", "-4", "route", "show", "table", "all")),
    Wanted("ipv6_route", "routes (IPv6), of all tables", ("ip", "-6", "route", "show", "table", "all")),
    Wanted("ipv4_addr", "interface addresses (IPv4)", ("ip", "-4", "addr")),
    Wanted("ipv6_addr", "interface addresses (IPv6)", ("ip", "-6", "addr")),
    Wanted("links", "interfaces, with details and counters", ("ip", "-d", "-s", "link")),
    Wanted("ipv4_rule", "routing rules (IPv4)", ("ip", "-4", "rule")),
    Wanted("ipv6_rule", "routing rules (IPv6)", ("ip", "-6", "rule")),
    Wanted("neighbours", "neighbours (ARP and NDP)", ("ip", "neigh")),
    Wanted("fdb", "forwarding entries of tunnels and bridges", ("bridge", "fdb")),
    Wanted("nft_ruleset", "the nftables ruleset, with counters", ("nft", "-n", "-a", "list", "ruleset")),
    Wanted("ipv4_tables", "iptables (IPv4)", ("iptables-save", "-c")),
    Wanted("ipv6_tables", "iptables (IPv6)", ("ip6tables-save", "-c")),
    Wanted("ipsets", "ipsets", ("ipset", "list")),
    Wanted("ss", "sockets", ("ss", "-a", "-n")),
    Wanted("conntrack", "connection tracking, figures", ("conntrack", "-S")),
    Wanted("sysctl", "the kernel's settings of the network", ("sysctl", "-a", "-r", r"^net\.(ipv4|ipv6|netfilter)\.")),
    Wanted("processes", "processes", ("ps", "-eo", "pid,ppid,stat,etime,rss,args")),
    Wanted("units", "units of systemd", ("systemctl", "list-units", "--all", "--no-pager", *UNITS, "docker*", "etcd*")),
    Wanted("journalctl_calico_node", "journals of our units", ("journalctl", "--no-pager", "-n", AGENT_LOG_LINES,
           *(word for unit in UNITS for word in ("-u", unit)))),
    Wanted("kernel_log", "the kernel's messages", ("dmesg",)),
)  # fmt: skip
QUESTIONS = ("status", "problems", "pending", "dirty", "config", "table")
KINDS_SHOWN = ("endpoints", "policies", "sets", "routes", "links")
BIRD_QUESTIONS = {"status": "show status", "protocols": "show protocols all", "routes": "show route"}
FILES = (
    "/etc/calico/calicoctl.cfg", "/etc/calico/felix.cfg", "/etc/calico/*.env", "/etc/calico/*.conf",
    "/etc/calico/confd/config/*.cfg", "/etc/cni/net.d/*", "/opt/mesosphere/etc/calico/*",
    "/opt/mesosphere/etc/dcos/network/cni/*", "/var/lib/calico/*", "/etc/os-release", "/etc/resolv.conf",
    "/proc/modules",
)  # fmt: skip
MOST_FILES = 100
BIRD_FILE = "/etc/calico/confd/config/bird.cfg"
VARIABLES = ("CALICO_", "FELIX_", "ETCD_", "BGP_", "DATASTORE_TYPE=", "NODENAME=", "HOSTNAME=", "IP=", "IP6=", "AS=")


class Etcd(NamedTuple):
    """What was seen of etcd from here: its endpoints, and the pools, as far as one serves."""

    members: list[MemberHealth]
    pools: list[dict[str, Any]]
    failure: str = ""


def wanted(config: str, log_dir: str) -> Iterator[Wanted]:
    """Everything."""
    yield from COMMANDS
    socket = os.environ.get("CALICO_NODE_SOCKET") or NODE_SOCKET
    for name in QUESTIONS:
        yield Wanted(f"agent_{name}", f"the agent: node debug {name}", ask=partial(_agent, socket, name, ""))
    for kind in KINDS_SHOWN:
        yield Wanted(f"agent_{kind}", f"the agent: node debug show {kind}", ask=partial(_agent, socket, "show", kind))
    bird = find_socket()
    for name, command in BIRD_QUESTIONS.items():
        yield Wanted(f"bird_{name}", f"BIRD at {bird}: {command}", ask=partial(_bird, bird, command))
    yield Wanted("environment", "the variables of our services", ask=_environment)
    yield Wanted("etcd", "the endpoints of etcd, as seen from here", ask=partial(_etcd_text, config))
    yield from _files(FILES, "files", "the file")
    yield from _files((f"{log_dir}/**",), "logs", "the log")


def _files(patterns: tuple[str, ...], folder: str, what: str) -> Iterator[Wanted]:
    found = [
        path for pattern in patterns for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)
    ]
    for path in found[:MOST_FILES]:
        if not path.endswith((".gz", ".xz", ".zst", ".key", ".pem")):
            yield Wanted(f"{folder}{path}", f"{what} {path}", ask=read_file(Path(path)))


async def _agent(socket: str, command: str, argument: str) -> str:
    await in_thread(partial(node_debug.check_socket, socket))
    return "".join([text async for text in node_debug.ask(socket, command, argument)])


async def _bird(socket: str, command: str) -> str:
    return "".join(f"{line.code:04d} {line.text}\n" for line in await ask(socket, command, BIRD_S))


async def _environment() -> str:
    return await in_thread(_variables)


def _variables() -> str:
    lines = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            pairs = Path("/proc", name, "environ").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if words[0] and (processes.has_agent([words[:-1]]) or any("calico" in word for word in words[:2])):
            lines += [
                f"# {' '.join(words).strip()} ({name})",
                *(pair for pair in pairs if pair.startswith(VARIABLES)),
                "",
            ]
    return "\n".join(lines)


def see_etcd(config: str) -> Etcd:
    """How etcd is, and the pools; nothing is asked for when no endpoint serves."""
    found = connection.load(config, os.environ)
    members = look(found, PROBE_S)
    if none_serves(members):
        return Etcd(members, [], "no endpoint of etcd serves")
    try:
        with session.connect({"--config": config}) as client:
            pools = [to_json(pool) for pool in client.list_at_revision("IPPool").items]
    except CalicoError as error:
        return Etcd(members, [], str(error))
    return Etcd(members, pools)


def etcd_text(seen: Etcd) -> str:
    """The same for people."""
    lines = [f"{one.url}: {one.problem or f'serves; version {one.version}, {one.size} octets'}" for one in seen.members]
    lines += [seen.failure] if seen.failure else []
    lines += [json.dumps(pool) for pool in seen.pools]
    return "\n".join(lines) + "\n"


async def _etcd_text(config: str) -> str:
    return etcd_text(await in_thread(partial(see_etcd, config)))


def what_is_wrong(items: Mapping[str, Item], etcd: Etcd, now_s: float) -> Iterator[Finding]:
    """Everything that looks wrong in what was collected."""
    lines = list(processes.command_lines())
    has_bird = processes.has_program(lines, "bird")
    yield from findings.agent(processes.has_agent(lines), _status(items["agent_status"]), items["agent_status"].problem)
    yield from findings.lines(_text(items["agent_problems"]), "agent_problems", "the agent says")
    yield from findings.lines(_text(items["agent_pending"]), "agent_pending", "the agent is still trying")
    reply = items["bird_protocols"]
    yield from findings.sessions(_protocols(reply), reply.problem, has_bird, os.path.exists(BIRD_FILE))
    yield from findings.etcd(etcd.members, now_s)
    if etcd.failure and not none_serves(etcd.members):
        yield Finding(f"etcd does not answer a client: {etcd.failure}", "etcd")
    yield from findings.devices(etcd.pools, os.listdir("/sys/class/net"))
    yield from findings.forwarding(Path("/proc/sys/net/ipv4/ip_forward").read_text())
    yield from findings.failed_units(_text(items["units"]))


def _text(item: Item) -> str:
    return item.content.decode("utf-8", "replace")


def _status(item: Item) -> dict[str, Any]:
    found = json.loads(item.content) if item.content.startswith(b"{") else {}
    return dict(found)


def _protocols(item: Item) -> list[Protocol]:
    return parse_protocols(Line(int(line[:4]), line[5:]) for line in _text(item).splitlines() if line[:4].isdigit())
