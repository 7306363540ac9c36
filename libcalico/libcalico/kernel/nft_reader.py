"""Base chains and rules of other programs in nftables, read over netlink, as far as the agent has to judge them.

libnftables would do, but it fetches and prints all of the host's tables, and it cannot say what an extension of
iptables (`-m comment`, `-j REJECT`) holds. Blocking; takes 3 us a chain and 20 us a rule that is decoded.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import NamedTuple

from libcalico.kernel import nlmsg
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import NetlinkSocket

_NETLINK_NETFILTER = 12
_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_GETCHAIN, _NFT_MSG_GETRULE, _NFT_MSG_GETSET = 4, 7, 10
_NFGENMSG = struct.Struct("=BBH")
_BE32 = struct.Struct("!i")
_BE64 = struct.Struct("!Q")

_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME, _NFTA_CHAIN_HOOK, _NFTA_CHAIN_POLICY = 1, 3, 4, 5
_NFTA_HOOK_HOOKNUM = 1
_NFTA_SET_TABLE, _NFTA_SET_NAME, _NFTA_SET_FLAGS, _NFT_SET_ANONYMOUS, _NFT_SET_MAP = 1, 2, 3, 0x1, 0x8
_NFTA_RULE_TABLE, _NFTA_RULE_CHAIN, _NFTA_RULE_HANDLE, _NFTA_RULE_EXPRESSIONS, _NFTA_RULE_USERDATA = 1, 2, 3, 4, 7
_NFTA_EXPR_NAME, _NFTA_EXPR_DATA = 1, 2
_NFTA_META_KEY, _NFT_META_IIFNAME, _NFT_META_OIFNAME = 2, 6, 7
_NFTA_CMP_OP, _NFTA_CMP_DATA, _NFT_CMP_EQ = 2, 3, 0
_NFTA_IMMEDIATE_DATA, _NFTA_DATA_VALUE, _NFTA_DATA_VERDICT = 2, 1, 2
_NFTA_VERDICT_CODE, _NFTA_VERDICT_CHAIN = 1, 2
_NFTA_MATCH_NAME, _NFTA_MATCH_INFO = 1, 3
_NFTNL_UDATA_RULE_COMMENT = 0

_NFPROTO_INET = 1
_FAMILIES = {_NFPROTO_INET: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_NUMBERS = {word: number for number, word in _FAMILIES.items()}
_IP_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_HOOKS = {"ip": _IP_HOOKS, "ip6": _IP_HOOKS, "inet": _IP_HOOKS, "arp": ("input", "output", "forward")}
_VERDICTS = {0: "drop", 1: "accept", -3: "jump", -4: "goto", -5: "return"}
_HARMLESS = {"counter", "log"}


class ChainSeen(NamedTuple):
    """A chain. `hook` is "" for one that is no base chain; `drops`: its policy is drop."""

    family: str
    table: str
    name: str
    hook: str = ""
    drops: bool = False


class RuleSeen(NamedTuple):
    """A rule as far as we understand it.

    `place` finds it again: its handle, or for iptables-legacy its whole text. `interfaces` are ("in" or "out", name); a
    `*` at the end of a name stands for all that begin with it. `verdict`: accept, drop, reject, return, jump, goto, or
    "" for none; `target` is the chain that it leads to; `conditional`: it looks at more than interfaces."""

    chain: str
    place: str
    comment: str = ""
    interfaces: tuple[tuple[str, str], ...] = ()
    verdict: str = ""
    target: str = ""
    conditional: bool = False


class SetSeen(NamedTuple):
    """A named set or map."""

    name: str
    is_map: bool


class NftReader(NetlinkSocket):
    """Reads nftables of our network namespace, or of the one at `netns_path`."""

    def __init__(self, netns_path: str = "") -> None:
        super().__init__(_NETLINK_NETFILTER, netns_path)

    def chains(self, without: str = "") -> list[ChainSeen]:
        """Every chain of every table, without those of one `inet` table, which may be very many."""
        kind = _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETCHAIN
        skipped = nlmsg.encode_text(_NFTA_CHAIN_TABLE, without) if without else b"none"

        def decode(message: memoryview) -> ChainSeen | None:
            place = bytes(message[_NFGENMSG.size : _NFGENMSG.size + len(skipped)])
            return None if message[0] == _NFPROTO_INET and place == skipped else decode_chain(message)

        return self.dump("list chains", kind, _NFGENMSG.pack(0, 0, 0), decode)

    def rules(self, family: str, table: str, chain: str = "", holding: tuple[bytes, ...] = (b"",)) -> list[RuleSeen]:
        """The rules of a table, or of one of its chains, in order; those whose bytes contain one of `holding`."""
        kind = _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETRULE
        body = _NFGENMSG.pack(_NUMBERS[family], 0, 0) + nlmsg.encode_text(_NFTA_RULE_TABLE, table)
        if chain:
            body += nlmsg.encode_text(_NFTA_RULE_CHAIN, chain)

        def decode(message: memoryview) -> RuleSeen | None:
            raw = bytes(message)
            return decode_rule(message) if any(part in raw for part in holding) else None

        return self.dump("list rules", kind, body, decode)

    def sets(self, family: str, table: str) -> list[SetSeen]:
        """The named sets and maps of a table, without their elements; [] when there is no such table."""
        kind = _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETSET
        body = _NFGENMSG.pack(_NUMBERS[family], 0, 0) + nlmsg.encode_text(_NFTA_SET_TABLE, table)
        try:
            return self.dump("list sets", kind, body, decode_set)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return []
            raise


def decode_set(body: memoryview) -> SetSeen | None:
    """A set of a dump; None for a rule's anonymous one."""
    found = nlmsg.decode_attributes(body[_NFGENMSG.size :])
    flags = _be32(found.get(_NFTA_SET_FLAGS)) if _NFTA_SET_FLAGS in found else 0
    return (
        None
        if flags & _NFT_SET_ANONYMOUS
        else SetSeen(nlmsg.decode_text(found[_NFTA_SET_NAME]), bool(flags & _NFT_SET_MAP))
    )


def decode_chain(body: memoryview) -> ChainSeen:
    """A chain of a dump."""
    found = nlmsg.decode_attributes(body[_NFGENMSG.size :])
    family = _FAMILIES.get(body[0], str(body[0]))
    table, name = (nlmsg.decode_text(found[kind]) for kind in (_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME))
    if _NFTA_CHAIN_HOOK not in found:
        return ChainSeen(family, table, name)
    number = _be32(nlmsg.decode_attributes(found[_NFTA_CHAIN_HOOK]).get(_NFTA_HOOK_HOOKNUM))
    hooks = _HOOKS.get(family, ())
    hook = hooks[number] if 0 <= number < len(hooks) else f"hook {number}"
    policy = found.get(_NFTA_CHAIN_POLICY)
    return ChainSeen(family, table, name, hook, policy is not None and _be32(policy) == 0)


def decode_rule(body: memoryview) -> RuleSeen:
    """A rule of a dump."""
    found = nlmsg.decode_attributes(body[_NFGENMSG.size :])
    rule = RuleSeen(
        nlmsg.decode_text(found[_NFTA_RULE_CHAIN]),
        str(_BE64.unpack(found[_NFTA_RULE_HANDLE])[0]),
        _comment_of(found[_NFTA_RULE_USERDATA]) if _NFTA_RULE_USERDATA in found else "",
    )
    loaded = 0
    for name, data in _expressions(found.get(_NFTA_RULE_EXPRESSIONS)):
        if name == "meta":
            loaded = _be32(data.get(_NFTA_META_KEY))
        elif name == "cmp" and loaded in {_NFT_META_IIFNAME, _NFT_META_OIFNAME}:
            rule = _with_interface(rule, "in" if loaded == _NFT_META_IIFNAME else "out", data)
            loaded = 0
        else:
            rule = _with_expression(rule, name, data)
    return rule


def _expressions(listed: memoryview | None) -> Iterator[tuple[str, nlmsg.Attributes]]:
    place = 0
    while listed is not None and place + 4 <= len(listed):
        length = int(nlmsg.U16.unpack_from(listed, place)[0])
        if length < 4:
            return
        found = nlmsg.decode_attributes(listed[place + 4 : place + length])
        data = found.get(_NFTA_EXPR_DATA)
        yield nlmsg.decode_text(found[_NFTA_EXPR_NAME]), {} if data is None else nlmsg.decode_attributes(data)
        place += (length + 3) & ~3


def _with_interface(rule: RuleSeen, direction: str, data: nlmsg.Attributes) -> RuleSeen:
    value = nlmsg.decode_attributes(data[_NFTA_CMP_DATA]).get(_NFTA_DATA_VALUE) if _NFTA_CMP_DATA in data else None
    if value is None or _be32(data.get(_NFTA_CMP_OP)) != _NFT_CMP_EQ:
        return rule._replace(conditional=True)
    raw = bytes(value)
    name = raw.rstrip(b"\0").decode("utf-8", "replace") + ("" if raw.endswith(b"\0") else "*")
    return rule._replace(interfaces=(*rule.interfaces, (direction, name)))


def _with_expression(rule: RuleSeen, name: str, data: nlmsg.Attributes) -> RuleSeen:
    if name == "immediate":
        return _with_verdict(rule, data)
    if name == "reject":
        return rule._replace(verdict="reject")
    extension = nlmsg.decode_text(data[_NFTA_MATCH_NAME]) if _NFTA_MATCH_NAME in data else ""
    if name == "target":
        return rule._replace(verdict="reject") if extension == "REJECT" else rule
    if name == "match" and extension == "comment" and _NFTA_MATCH_INFO in data:
        text = bytes(data[_NFTA_MATCH_INFO]).partition(b"\0")[0]
        return rule._replace(comment=text.decode("utf-8", "replace"))
    return rule if name in _HARMLESS else rule._replace(conditional=True)


def _with_verdict(rule: RuleSeen, data: nlmsg.Attributes) -> RuleSeen:
    value = nlmsg.decode_attributes(data[_NFTA_IMMEDIATE_DATA]) if _NFTA_IMMEDIATE_DATA in data else {}
    if _NFTA_DATA_VERDICT not in value:
        return rule
    verdict = nlmsg.decode_attributes(value[_NFTA_DATA_VERDICT])
    target = nlmsg.decode_text(verdict[_NFTA_VERDICT_CHAIN]) if _NFTA_VERDICT_CHAIN in verdict else ""
    return rule._replace(verdict=_VERDICTS.get(_be32(verdict.get(_NFTA_VERDICT_CODE)), ""), target=target)


def _comment_of(userdata: memoryview) -> str:
    place = 0
    while place + 2 <= len(userdata):
        kind, length = userdata[place], userdata[place + 1]
        if kind == _NFTNL_UDATA_RULE_COMMENT:
            return nlmsg.decode_text(userdata[place + 2 : place + 2 + length])
        place += 2 + length
    return ""


def _be32(payload: memoryview | None) -> int:
    return int(_BE32.unpack_from(payload)[0]) if payload is not None and len(payload) >= 4 else -1
