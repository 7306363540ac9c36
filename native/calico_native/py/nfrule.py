"""Chains, rules and sets of an nftables table as netlink messages: bytes out, no sockets here.

libnftables reads the sets of a table back before each transaction: milliseconds beside a few hundred of them. The
kernel needs nothing of it. What a running agent writes most often is encoded here, from the words that libnftables
would get; all else raises ValueError and is libnftables' work: anonymous sets, ICMP, logs, limits, and rules in which
it would join two comparisons. A rule's expressions are, byte for byte, those of libnftables 1.0.6
(tests/netns/test_kernel_rules.py). Source: linux/netfilter/nf_tables.h; libnftnl/udata.h.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from .nfnl import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    PROTOCOLS,
    TYPES,
    Change,
    Message,
    attribute,
    element_messages,
    frame_batch,
    text_attribute,
)

NFT_MSG_NEWCHAIN, NFT_MSG_DELCHAIN, NFT_MSG_NEWRULE, NFT_MSG_DELRULE = 3, 5, 6, 8
NFT_MSG_NEWSET, NFT_MSG_DELSET = 9, 11
NLM_F_APPEND = 0x800
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME = 1, 3
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA = 1, 2, 4, 7
NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN = 1, 2, 3, 4, 5
NFTA_SET_ID, NFTA_SET_USERDATA = 10, 13
NFT_SET_INTERVAL = 0x4
NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 1, 2
NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2, 1, 2
NFT_REG_VERDICT, NFT_REG_1, NFT_REG32_01, NFT_REG32_02, NFT_REG32_04 = 0, 1, 9, 10, 12
NFT_META_MARK, NFT_META_NFPROTO, NFT_META_L4PROTO = 3, 15, 16
NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER = 1, 2
NFT_CMP_EQ, NFT_CMP_NEQ, NFT_CMP_LTE, NFT_CMP_GTE = 0, 1, 3, 5
NF_CT_STATE_INVALID_BIT = 1
LONGEST_COMMENT = 128

_VERDICTS = {"drop": 0, "accept": 1, "return": -5}
_JUMPS = {"jump": -3, "goto": -4}
_VERSIONS = {"ipv4": (2, 4), "ipv6": (10, 16)}
"""The number of the address family, and how long an address is."""
_WORDS = {"ip": ("ipv4", {"saddr": 12, "daddr": 16}), "ip6": ("ipv6", {"saddr": 8, "daddr": 24})}
_PORTS = {"sport": 0, "dport": 2}
_OPERATORS = {"==": NFT_CMP_EQ, "!=": NFT_CMP_NEQ}
_KEYS = {
    "ipv4_addr": (7, 4),
    "ipv6_addr": (8, 16),
    "inet_service": (13, 2),
    TYPES[2]: (0x730D, 12),
    TYPES[3]: (0x830D, 24),
}
"""libnftables' number of a type, and the bytes of its key."""
_SIMPLE_KEY = bytes((0, 4, 2, 0, 0, 0))
"""The key is big endian (NFTNL_UDATA_SET_KEYBYTEORDER)."""
_JOINED_KEY = bytes((0, 4, 0, 0, 0, 0, 3, 8, 0, 4, 13, 0, 0, 0, 1, 0))
"""The key is a concatenation, of parts that are known by the type's number (NFTNL_UDATA_SET_KEY_TYPEOF)."""

Command = tuple[str, str, str, str, Change | None]
"""(verb, kind, name, rest, elements). The verb is add, delete or flush, the kind chain, rule, set, map or element.
`rest` is a rule's text, a chain's hook, or a set's type, with `interval` behind it where it is one."""


def encode_commands(table: str, commands: Sequence[Command]) -> tuple[bytes, list[str]]:
    """A batch for the `inet` table of a name, and what each of its messages but BEGIN and END is about.

    A map that is added must stand. Raises ValueError or OSError (an address): a command is none of ours."""
    messages: list[Message] = []
    names: list[str] = []
    for number, (verb, kind, name, rest, elements) in enumerate(commands):
        if elements is not None:
            found = element_messages(table, elements)
        elif (verb, kind, rest) == ("add", "map", TYPES[4]):
            continue  # the messages of its elements fail where it does not stand
        else:
            found = [_message(table, verb, kind, name, rest, number)]
        messages += found
        names += [f"{'elements of set' if kind == 'element' else kind} {name}"] * len(found)
    return frame_batch(messages), names


def _message(table: str, verb: str, kind: str, name: str, rest: str, number: int) -> Message:
    of_table = text_attribute(NFTA_RULE_TABLE, table)  # the same number in all of them
    if kind == "rule" and verb == "add":
        body = of_table + text_attribute(NFTA_RULE_CHAIN, name) + encode_rule(rest)
        return NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body
    if kind == "chain" and not rest:
        if verb == "flush":
            return NFT_MSG_DELRULE, 0, of_table + text_attribute(NFTA_RULE_CHAIN, name)
        body = of_table + text_attribute(NFTA_CHAIN_NAME, name)
        return (NFT_MSG_NEWCHAIN, NLM_F_CREATE, body) if verb == "add" else (NFT_MSG_DELCHAIN, 0, body)
    if kind == "set" and verb == "delete":
        return NFT_MSG_DELSET, 0, of_table + text_attribute(NFTA_SET_NAME, name)
    if kind == "set" and verb == "add":
        return NFT_MSG_NEWSET, NLM_F_CREATE, of_table + text_attribute(NFTA_SET_NAME, name) + _set(rest, number + 1)
    raise ValueError(f"no batch can {verb} {kind} {name} {rest}")


def _set(kind: str, number: int) -> bytes:
    """A set's declaration; `number` is its own in the batch."""
    interval = kind.endswith(" interval")
    kind = kind.removesuffix(" interval")
    if kind not in _KEYS:
        raise ValueError(f"no batch can make a set of type {kind!r}")
    key, length = _KEYS[kind]
    userdata = _JOINED_KEY if " . " in kind else _SIMPLE_KEY
    return (
        _number(NFTA_SET_FLAGS, NFT_SET_INTERVAL if interval else 0) + _number(NFTA_SET_KEY_TYPE, key)
        + _number(NFTA_SET_KEY_LEN, length) + _number(NFTA_SET_ID, number) + attribute(NFTA_SET_USERDATA, userdata)
    )  # fmt: skip


def encode_rule(text: str) -> bytes:
    """The expressions and the comment of a rule. Raises ValueError or OSError (an address): it is none of ours."""
    words, quote, comment = text.partition(' comment "')
    try:
        return _Rule(words.split()).encode() + (_comment(comment) if quote else b"")
    except (KeyError, OverflowError) as error:
        raise ValueError(f"no batch can hold {text!r}: {error}") from error


def _comment(quoted: str) -> bytes:
    text = quoted.removesuffix('"').encode()
    if '"' in quoted[:-1] or not quoted.endswith('"') or len(text) > LONGEST_COMMENT:
        raise ValueError(f"{quoted} is no comment")
    return attribute(NFTA_RULE_USERDATA, bytes((0, len(text) + 1)) + text + b"\0")


class _Rule:
    """Reads a rule's words from left to right."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._place = 0
        self._expressions: list[bytes] = []
        self._version = ""
        self._values = 0

    def encode(self) -> bytes:
        """All expressions in one attribute."""
        if not self._words:
            raise ValueError("a rule without words")
        while self._place < len(self._words):
            self._statement(self._next())
        if self._values > 1:
            raise ValueError("libnftables may join comparisons of neighbours in a header")
        return attribute(NFTA_RULE_EXPRESSIONS | NLA_F_NESTED, b"".join(self._expressions))

    def _next(self) -> str:
        if self._place == len(self._words):
            raise ValueError("a rule ends early")
        self._place += 1
        return self._words[self._place - 1]

    def _take(self, *words: str) -> bool:
        """Are these the next words? Then they are read."""
        end = self._place + len(words)
        if tuple(self._words[self._place : end]) != words:
            return False
        self._place = end
        return True

    def _statement(self, word: str) -> None:
        if word in _VERDICTS:
            self._expressions.append(_immediate(_number(NFTA_VERDICT_CODE, _VERDICTS[word])))
        elif word in _JUMPS:
            code = _number(NFTA_VERDICT_CODE, _JUMPS[word])
            self._expressions.append(_immediate(code + text_attribute(NFTA_VERDICT_CHAIN, self._next())))
        elif word == "counter":
            self._expressions.append(_COUNTER)
        elif word == "meta":
            self._meta()
        elif word in _WORDS:
            self._address(word)
        elif word == "th":
            self._port(self._next())
        elif word == "udp" and self._take("dport"):
            self._expressions += [_meta_load(NFT_META_L4PROTO, NFT_REG_1), _compare(NFT_CMP_EQ, bytes((17,)))]
            self._port("dport")
        elif word == "ct" and self._take("state", "invalid"):
            self._expressions += [_CT_STATE, *_masked(NF_CT_STATE_INVALID_BIT, 0), _compare(NFT_CMP_NEQ, bytes(4))]
        else:
            raise ValueError(f"no batch can hold {' '.join(self._words)!r}")

    def _meta(self) -> None:
        word = self._next()
        if word == "nfproto":
            self._of_version(self._next())
        elif word == "l4proto":
            operator = NFT_CMP_NEQ if self._take("!=") else NFT_CMP_EQ
            value = bytes((_protocol(self._next()),))
            self._expressions += [_meta_load(NFT_META_L4PROTO, NFT_REG_1), _compare(operator, value)]
        elif word == "mark":
            self._mark()
        else:
            raise ValueError(f"no batch can hold meta {word}")

    def _mark(self) -> None:
        """`set meta mark | N`, `set meta mark & N`, `& N == N`."""
        load = _meta_load(NFT_META_MARK, NFT_REG_1)
        if self._take("set", "meta", "mark"):
            operator, value = self._next(), int(self._next(), 16)
            if operator == "|":
                self._expressions += [load, *_masked(~value & 0xFFFFFFFF, value), _SET_MARK]
            elif operator == "&":
                self._expressions += [load, *_masked(value, 0), _SET_MARK]
            else:
                raise ValueError(f"a mark is not set by {operator}")
        elif self._take("&"):
            mask = int(self._next(), 16)
            if not self._take("=="):
                raise ValueError("a mark is only compared for being equal")
            value = int(self._next(), 16)
            self._expressions += [load, *_masked(mask, 0), _compare(NFT_CMP_EQ, value.to_bytes(4, sys.byteorder))]
        else:
            raise ValueError("no batch can hold this of a mark")

    def _of_version(self, version: str) -> None:
        """A test of the IP version, once."""
        if version == self._version:
            return
        if self._version or version not in _VERSIONS:
            raise ValueError(f"no batch can hold nfproto {version}")
        self._version = version
        number = bytes((_VERSIONS[version][0],))
        self._expressions += [_meta_load(NFT_META_NFPROTO, NFT_REG_1), _compare(NFT_CMP_EQ, number)]

    def _address(self, word: str) -> None:
        """`ip saddr`: a set, an address, a network, or with protocol and port a set."""
        version, fields = _WORDS[word]
        field = self._next()
        offset, (number, length) = fields[field], _VERSIONS[version]
        self._of_version(version)
        if self._take(".", "meta", "l4proto", ".", "th"):
            self._expressions.append(_payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, NFT_REG_1))
            protocol, port = (NFT_REG32_01, NFT_REG32_02) if length == 4 else (NFT_REG32_04, NFT_REG32_04 + 1)
            self._expressions.append(_meta_load(NFT_META_L4PROTO, protocol))
            self._expressions.append(_payload(NFT_PAYLOAD_TRANSPORT_HEADER, _PORTS[self._next()], 2, port))
            inverted = self._take("!=")
            self._expressions.append(_lookup(self._set_name(self._next()), inverted))
            return
        operator = NFT_CMP_NEQ if self._take("!=") else NFT_CMP_EQ
        value = self._next()
        if value.startswith("@"):
            self._expressions.append(_payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, NFT_REG_1))
            self._expressions.append(_lookup(self._set_name(value), operator == NFT_CMP_NEQ))
            return
        self._values += 1
        family = socket.AF_INET if number == 2 else socket.AF_INET6
        self._expressions += _network(family, offset, length, operator, value)

    def _port(self, field: str) -> None:
        """`th dport`: a port, a range or a set."""
        self._expressions.append(_payload(NFT_PAYLOAD_TRANSPORT_HEADER, _PORTS[field], 2, NFT_REG_1))
        operator = NFT_CMP_NEQ if self._take("!=") else NFT_CMP_EQ
        value = self._next()
        if value.startswith("@"):
            self._expressions.append(_lookup(self._set_name(value), operator == NFT_CMP_NEQ))
            return
        self._values += 1
        first, dash, last = value.partition("-")
        if not dash:
            self._expressions.append(_compare(operator, int(first).to_bytes(2, "big")))
        elif operator == NFT_CMP_EQ:
            self._expressions.append(_compare(NFT_CMP_GTE, int(first).to_bytes(2, "big")))
            self._expressions.append(_compare(NFT_CMP_LTE, int(last).to_bytes(2, "big")))
        else:
            raise ValueError("no batch can hold what is outside of a range")

    @staticmethod
    def _set_name(word: str) -> str:
        if not word.startswith("@"):
            raise ValueError(f"{word} is no set")
        return word[1:]


def _protocol(word: str) -> int:
    number = PROTOCOLS[word] if word in PROTOCOLS else int(word)
    if not 0 <= number <= 255:
        raise ValueError(f"{word} is no protocol")
    return number


def _network(family: int, offset: int, length: int, operator: int, text: str) -> list[bytes]:
    """A comparison of as many bytes as a prefix has, or with a mask where it ends within a byte."""
    address, slash, bits = text.partition("/")
    value, prefix = socket.inet_pton(family, address), int(bits) if slash else length * 8
    if not 0 < prefix <= length * 8:
        raise ValueError(f"no batch can hold {text}")
    if prefix % 8 == 0:
        size = prefix // 8
        return [_payload(NFT_PAYLOAD_NETWORK_HEADER, offset, size, NFT_REG_1), _compare(operator, value[:size])]
    mask = ((1 << prefix) - 1) << (length * 8 - prefix)
    first = (int.from_bytes(value, "big") & mask).to_bytes(length, "big")
    load = _payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length, NFT_REG_1)
    return [load, _bitwise(mask.to_bytes(length, "big"), bytes(length)), _compare(operator, first)]


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def _data(kind: int, value: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, attribute(NFTA_DATA_VALUE, value))


def _expression(name: str, body: bytes) -> bytes:
    """An element of a rule's list of expressions."""
    inner = text_attribute(NFTA_EXPR_NAME, name) + attribute(NFTA_EXPR_DATA | NLA_F_NESTED, body)
    return attribute(NFTA_LIST_ELEM | NLA_F_NESTED, inner)


def _immediate(verdict: bytes) -> bytes:
    """NFTA_IMMEDIATE_DREG, _DATA."""
    data = attribute(2 | NLA_F_NESTED, attribute(NFTA_DATA_VERDICT | NLA_F_NESTED, verdict))
    return _expression("immediate", _number(1, NFT_REG_VERDICT) + data)


def _meta_load(key: int, register: int) -> bytes:
    """NFTA_META_KEY, _DREG."""
    return _expression("meta", _number(2, key) + _number(1, register))


def _payload(base: int, offset: int, length: int, register: int) -> bytes:
    """NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN."""
    return _expression("payload", _number(1, register) + _number(2, base) + _number(3, offset) + _number(4, length))


def _compare(operator: int, value: bytes) -> bytes:
    """NFTA_CMP_SREG, _OP, _DATA."""
    return _expression("cmp", _number(1, NFT_REG_1) + _number(2, operator) + _data(3, value))


def _lookup(name: str, inverted: bool) -> bytes:
    """NFTA_LOOKUP_SET, _SREG, _FLAGS."""
    return _expression("lookup", text_attribute(1, name) + _number(2, NFT_REG_1) + _number(5, 1 if inverted else 0))


def _bitwise(mask: bytes, xor: bytes) -> bytes:
    """NFTA_BITWISE_SREG, _DREG, _LEN, _OP, _MASK, _XOR."""
    registers = _number(1, NFT_REG_1) + _number(2, NFT_REG_1)
    return _expression("bitwise", registers + _number(3, len(mask)) + _number(6, 0) + _data(4, mask) + _data(5, xor))


def _masked(mask: int, xor: int) -> list[bytes]:
    """On a number of the host's order, which is little endian (tests/netns/test_kernel_rules.py would see it)."""
    return [_bitwise(mask.to_bytes(4, sys.byteorder), xor.to_bytes(4, sys.byteorder))]


_COUNTER = _expression("counter", attribute(1, bytes(8)) + attribute(2, bytes(8)))
_CT_STATE = _expression("ct", _number(1, NFT_REG_1) + _number(2, 0))
_SET_MARK = _expression("meta", _number(2, NFT_META_MARK) + _number(3, NFT_REG_1))
