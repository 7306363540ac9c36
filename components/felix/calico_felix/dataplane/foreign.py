"""What other programs' packet filters on this host mean for workloads. Pure.

All base chains of a hook see a packet, and a drop in any of them is final. So nothing here can let through what our own
table drops. An accept in a foreign chain ends that chain alone: it lifts what *it* would have dropped.

- iptables' FORWARD that drops or rejects (Docker gives it the policy DROP) gets our accept for workloads' interfaces,
  in DOCKER-USER behind the user's own rules, else at its head; it goes when it is no longer needed (`plan_accepts`).
- Any other base chain that drops workloads' packets is named, with the line that mends it (`obstacle`).
- What upstream's Felix left is recognised by its marks and removed, as upstream does when it changes its backend
  (`former_tables`, `plan_sweep`; spec/felix.md 4.2, 4.3.5, 4.3.7).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from libcalico.kernel.nft_reader import ChainSeen, RuleSeen

ACCEPT_COMMENT = "calico-felix: workloads are judged in table inet calico"
FORWARD, DOCKER_USER = "FORWARD", "DOCKER-USER"
IPTABLES_TABLES = ("raw", "mangle", "nat", "filter", "security")
HOLDING = (b"cali", b"felix-")
"""What the bytes of a rule that concerns us contain: our comment, marks of a former Felix, jumps to its chains."""
FORMER_TABLES = frozenset({("ip", "calico"), ("ip6", "calico"), ("arp", "calico-arp")})
FORMER_CHAINS = ("cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-")
FORMER_LAYERS = ("filter-", "nat-", "mangle-", "raw-")
FORMER_SETS = ("cali40", "cali60", "cali4t", "cali6t", "felix-")
LETTERS, KEYWORDS = {"in": "-i", "out": "-o"}, {"in": "iifname", "out": "oifname"}
FIREWALLD = "firewalld"
DEEPEST = 8
"""Jumps in a row that are followed."""
FIREWALLD_POLICY = ("--add-ingress-zone=ANY", "--add-egress-zone=trusted", "--set-target=ACCEPT")
"""What comes from any zone may go to workloads; a zone's own target is about what comes from it."""
_FORMER_COMMENT = re.compile(r"cali:[A-Za-z0-9_-]{16}(;|$)")
_ON_THE_WAY = ("prerouting", "forward", "postrouting")
_OF_ARP = ("input", "output")
"""A container asks its host for the MAC of its gateway, and the host asks for the container's."""
_NO_SUCH_INTERFACE = {("prerouting", "out"), ("input", "out"), ("postrouting", "in"), ("output", "in")}
_IP_FAMILIES = {"ip", "ip6", "inet"}
_ENDS = {"accept", "drop", "reject", "return", "goto"}


class Held(NamedTuple):
    """What one table of other programs holds, as far as it concerns us. `rules` by chain, in order."""

    legacy: bool
    family: str
    table: str
    chains: dict[str, ChainSeen]
    rules: dict[str, list[RuleSeen]]

    @property
    def name(self) -> str:
        """For people."""
        if self.legacy:
            return f"iptables-legacy {self.family} {self.table}"
        return f"nftables {self.family} {self.table}"

    def rules_of(self, chain: str) -> Sequence[RuleSeen]:
        """In order."""
        return self.rules.get(chain, ())


class Insert(NamedTuple):
    """An accept that goes into a chain; `place` is how many of the rules that stay are before it."""

    chain: str
    place: int
    direction: str
    prefix: str


class Change(NamedTuple):
    """What is to be done to one table: delete rules, then chains, then insert accepts."""

    deletes: tuple[RuleSeen, ...] = ()
    chains: tuple[str, ...] = ()
    inserts: tuple[Insert, ...] = ()

    def __bool__(self) -> bool:
        """There is something to do."""
        return bool(self.deletes or self.chains or self.inserts)


def hold(legacy: bool, chains: Sequence[ChainSeen], rules: Iterable[RuleSeen]) -> Held:
    """One table from its chains and rules."""
    by_chain: dict[str, list[RuleSeen]] = {}
    for rule in rules:
        by_chain.setdefault(rule.chain, []).append(rule)
    return Held(legacy, chains[0].family, chains[0].table, {chain.name: chain for chain in chains}, by_chain)


def plan_accepts(held: Held, prefixes: Sequence[str]) -> Change:
    """The accepts of an iptables filter table that are missing, misplaced, or not needed any more."""
    wanted_chain = _accepting_chain(held) if prefixes else ""
    wanted = [(direction, f"{prefix}*") for prefix in prefixes for direction in ("in", "out")] if wanted_chain else []
    ours = [rule for rules in held.rules.values() for rule in rules if rule.comment == ACCEPT_COMMENT]
    if _stands(held, wanted_chain, wanted, ours):
        return Change()
    others = [rule for rule in held.rules.get(wanted_chain, ()) if rule.comment != ACCEPT_COMMENT]
    index = 0
    if wanted_chain == DOCKER_USER:
        index = len(others) - (1 if others and _always(others[-1], {"return"}) else 0)
    inserts = [Insert(wanted_chain, index + n, way, name[:-1]) for n, (way, name) in enumerate(wanted)]
    return Change(tuple(ours), (), tuple(inserts))


def _accepting_chain(held: Held) -> str:
    """Where our accepts belong; "" when the table lets workloads' packets through."""
    forward = held.chains.get(FORWARD)
    if forward is None or not _cuts(forward, flatten(held.rules.get(FORWARD, ()), held.rules_of)):
        return ""
    jumps = any(rule.target == DOCKER_USER for rule in held.rules.get(FORWARD, ()))
    return DOCKER_USER if jumps and DOCKER_USER in held.chains else FORWARD


def _stands(held: Held, chain: str, wanted: list[tuple[str, str]], ours: list[RuleSeen]) -> bool:
    if [rule.interfaces for rule in ours] != [(one,) for one in wanted] or any(rule.chain != chain for rule in ours):
        return False
    if not wanted:
        return True
    if any(rule.verdict != "accept" or rule.conditional for rule in ours):
        return False
    rules = held.rules[chain]
    if chain == FORWARD:
        return not any(_always(rule, _ENDS) for rule in flatten(rules[: rules.index(ours[0])], held.rules_of))
    last = rules.index(ours[-1])
    return rules[last - len(ours) + 1 : last + 1] == ours and all(_always(r, {"return"}) for r in rules[last + 1 :])


def _cuts(chain: ChainSeen, rules: Iterable[RuleSeen]) -> bool:
    """A base chain that drops what its rules do not accept."""
    return bool(chain.hook) and (chain.drops or any(_always(rule, {"drop", "reject"}) for rule in rules))


def flatten(
    rules: Iterable[RuleSeen], read: Callable[[str], Sequence[RuleSeen]], seen: tuple[str, ...] = ()
) -> list[RuleSeen]:
    """A chain's rules; one that sends every packet to another chain is followed by that one's, up to its return."""
    found: list[RuleSeen] = []
    for rule in rules:
        found.append(rule)
        if _always(rule, {"jump", "goto"}) and rule.target not in seen and len(seen) < DEEPEST:
            ways = takewhile(lambda one: not _always(one, {"return"}), read(rule.target))
            found += flatten(ways, read, (*seen, rule.target))
    return found


def _always(rule: RuleSeen, verdicts: set[str]) -> bool:
    return rule.verdict in verdicts and not rule.conditional and not rule.interfaces


def plan_sweep(held: Held) -> Change:
    """What a former Felix left in a table of iptables: its chains, and in other chains its rules."""
    chains = tuple(name for name in held.chains if name.startswith(FORMER_CHAINS))
    deletes = [rule for name, rules in held.rules.items() if name not in chains for rule in rules if _is_former(rule)]
    return Change(tuple(deletes), chains)


def _is_former(rule: RuleSeen) -> bool:
    return bool(_FORMER_COMMENT.match(rule.comment)) or rule.target.startswith(FORMER_CHAINS)


def former_tables(chains: Iterable[ChainSeen]) -> list[tuple[str, str]]:
    """Whole tables of nftables that a former Felix owned: by their names, and by a chain of its own in them."""
    found = {(one.family, one.table) for one in chains if _is_former_layer(one.name) or one.table == "calico-arp"}
    return sorted(found & FORMER_TABLES)


def _is_former_layer(name: str) -> bool:
    return any(name.startswith(f"{layer}{prefix}") for layer in FORMER_LAYERS for prefix in FORMER_CHAINS)


def on_the_way(chain: ChainSeen) -> bool:
    """A base chain of nftables through which workloads' packets or their ARP go, and which we do not mend ourselves."""
    ours = chain.family == "inet" and chain.table == "calico"
    mended = chain.family in {"ip", "ip6"} and (chain.table, chain.name) == ("filter", FORWARD)
    former = (chain.family, chain.table) in FORMER_TABLES
    known = chain.hook in (_OF_ARP if chain.family == "arp" else _ON_THE_WAY if chain.family in _IP_FAMILIES else ())
    return known and not (ours or mended or former)


def obstacle(chain: ChainSeen, rules: Sequence[RuleSeen], prefixes: Sequence[str], legacy: bool = False) -> str:
    """How a base chain may cut workloads off, and what mends it; "" when it does not."""
    if not _cuts(chain, rules):
        return ""
    missing = [(way, p) for p in prefixes for way in ("in", "out") if not _accepts(chain, rules, way, p)]
    if not missing:
        return ""
    why = "policy drop" if chain.drops else "its last word is drop or reject"
    where = f"{'iptables-legacy' if legacy else 'nftables'} table {chain.family} {chain.table}, chain {chain.name}"
    return f"{where} ({why}) cuts workloads off; this mends it: {_remedy(chain, missing, legacy)}"


def _accepts(chain: ChainSeen, rules: Iterable[RuleSeen], way: str, prefix: str) -> bool:
    if (chain.hook, way) in _NO_SUCH_INTERFACE:
        return True
    return any(
        _passes(rule, way)
        and not rule.conditional
        and any(way == one and name.endswith("*") and prefix.startswith(name[:-1]) for one, name in rule.interfaces)
        for rule in rules
    )


def _passes(rule: RuleSeen, way: str) -> bool:
    """It accepts, or leads to where firewalld accepts."""
    zone = "filter_FWD_trusted" if way == "in" else "filter_FWD_policy_"
    return rule.verdict == "accept" or rule.target.startswith(zone)


def _remedy(chain: ChainSeen, missing: Sequence[tuple[str, str]], legacy: bool) -> str:
    if chain.table == FIREWALLD:
        prefixes = dict.fromkeys(prefix for _way, prefix in missing)
        words = [*(f"--zone=trusted --add-interface={prefix}+" for prefix in prefixes), "--new-policy=workloads"]
        words += [f"--policy=workloads {word}" for word in FIREWALLD_POLICY]
        return " && ".join([*(f"firewall-cmd --permanent {one}" for one in words), "firewall-cmd --reload"])
    as_iptables = chain.family in {"ip", "ip6"} and chain.table in IPTABLES_TABLES and chain.name == chain.name.upper()
    if legacy or as_iptables:
        program = ("iptables" if chain.family == "ip" else "ip6tables") + ("-legacy" if legacy else "")
        add = f"{program} -t {chain.table} -I {chain.name}"
        return "; ".join(f"{add} {LETTERS[way]} {prefix}+ -j ACCEPT" for way, prefix in missing)
    add = f"nft insert rule {chain.family} {chain.table} {chain.name}"
    return "; ".join(f"{add} {KEYWORDS[way]} '\"{prefix}*\"' accept" for way, prefix in missing)


def render_nft(held: Held, change: Change) -> str:
    """The change as one transaction of nftables."""
    place = f"{held.family} {held.table}"
    lines = [f"delete rule {place} {rule.chain} handle {rule.place}" for rule in change.deletes]
    lines += [f"flush chain {place} {chain}" for chain in change.chains]
    lines += [f"delete chain {place} {chain}" for chain in change.chains]
    first = change.inserts[0].place if change.inserts else 0
    for chain, _place, direction, prefix in change.inserts:
        staying = [rule for rule in held.rules.get(chain, ()) if rule not in change.deletes]
        verb = f"insert rule {place} {chain} position {staying[first].place}" if first < len(staying) else ""
        accept = f'{KEYWORDS[direction]} "{prefix}*" counter accept comment "{ACCEPT_COMMENT}"'
        lines.append(f"{verb or f'add rule {place} {chain}'} {accept}")
    return "\n".join(lines) + "\n"


def render_restore(held: Held, change: Change) -> str:
    """The change as iptables-restore reads it."""
    lines = [f"*{held.table}", *(f"-D {rule.place}" for rule in change.deletes)]
    lines += [f"-F {chain}" for chain in change.chains] + [f"-X {chain}" for chain in change.chains]
    for chain, place, direction, prefix in change.inserts:
        comment = f'-m comment --comment "{ACCEPT_COMMENT}"'
        lines.append(f"-I {chain} {place + 1} {LETTERS[direction]} {prefix}+ {comment} -j ACCEPT")
    return "\n".join([*lines, "COMMIT"]) + "\n"
