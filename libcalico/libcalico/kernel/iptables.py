"""iptables' legacy tables, which nftables does not show: read and changed through the host's own iptables-legacy.

The kernel says which of them exist (/proc/net/ip_tables_names); where none does nothing is started, and no program is
needed. iptables-nft needs none of this: what it writes is read and changed as nftables.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from libcalico.errors import Unavailable
from libcalico.kernel import process
from libcalico.kernel.nft_reader import ChainSeen, RuleSeen

_NAMES = {"ip": "/proc/net/ip_tables_names", "ip6": "/proc/net/ip6_tables_names"}
_PROGRAMS = {"ip": "iptables", "ip6": "ip6tables"}
_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin")
_ENVIRONMENT = {"PATH": ":".join(_FOLDERS), "LC_ALL": "C"}
_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject", "RETURN": "return"}
_HARMLESS = {"LOG", "NFLOG"}
_TIMEOUT_S = 30.0
_LOCK_WAIT_S = "10"


class LegacyMissing(Unavailable):
    """There are legacy tables, and no program that reads them."""


def legacy_tables(family: str) -> list[str]:
    """The legacy tables of a family ("ip" or "ip6") that exist in our network namespace."""
    try:
        return Path(_NAMES[family]).read_text(encoding="ascii").split()
    except OSError:
        return []


class Legacy:
    """iptables-legacy of one family."""

    def __init__(self, family: str) -> None:
        self._family = family
        self._found: dict[str, str] = {}

    async def save(self, table: str) -> str:
        """A table as iptables-save prints it."""
        return await self._run("save", ["-t", table], b"")

    async def restore(self, text: str) -> None:
        """Run commands in the form of iptables-restore, and leave all else as it is; one transaction a table."""
        await self._run("restore", ["--noflush", "-w", _LOCK_WAIT_S], text.encode())

    async def _run(self, what: str, arguments: list[str], stdin: bytes) -> str:
        path = self._found.get(what) or await self._find(what)
        self._found[what] = path
        done = await process.run(path, _ENVIRONMENT, stdin, _TIMEOUT_S, arguments)
        if done.exit_code:
            raise Unavailable(f"{path}: {done.stderr.decode('utf-8', 'replace').strip()[:200]}")
        return done.stdout.decode("utf-8", "surrogateescape")

    async def _find(self, what: str) -> str:
        """iptables-legacy-save, say; else iptables-save, if that is a legacy one."""
        for name in (f"{_PROGRAMS[self._family]}-legacy-{what}", f"{_PROGRAMS[self._family]}-{what}"):
            for folder in _FOLDERS:
                path = f"{folder}/{name}"
                if os.access(path, os.X_OK) and ("legacy" in name or await _is_legacy(path)):
                    return path
        raise LegacyMissing(f"no {_PROGRAMS[self._family]}-legacy-{what} on this host")


async def _is_legacy(path: str) -> bool:
    shown = await process.run(path, _ENVIRONMENT, b"", _TIMEOUT_S, ["--version"])
    return shown.exit_code == 0 and b"nf_tables" not in shown.stdout


def decode_save(text: str, family: str, table: str) -> tuple[list[ChainSeen], list[RuleSeen]]:
    """The chains and rules of what iptables-save printed of one table."""
    chains: list[ChainSeen] = []
    rules: list[RuleSeen] = []
    for line in text.splitlines():
        if line.startswith(":"):
            name, policy = line[1:].split()[:2]
            hook = "" if policy == "-" else name.lower()
            chains.append(ChainSeen(family, table, name, hook, policy == "DROP"))
        elif line.startswith("-A "):
            rules.append(_decode_rule(line))
    return chains, rules


def _decode_rule(line: str) -> RuleSeen:
    try:
        words = shlex.split(line)
    except ValueError:  # quotes of an extension that we do not know: nothing of it concerns us
        return RuleSeen(line.split()[1], line.removeprefix("-A "), conditional=True)
    rule = RuleSeen(words[1], line.removeprefix("-A "))
    place = 2
    while place < len(words):
        word, value = words[place], words[place + 1] if place + 1 < len(words) else ""
        if word in {"-j", "-g"}:
            return _with_target(rule, word, value)
        known = True
        if word in {"-i", "-o"}:
            direction = "in" if word == "-i" else "out"
            name = value[:-1] + "*" if value.endswith("+") else value
            rule = rule._replace(interfaces=(*rule.interfaces, (direction, name)))
        elif word == "--comment":
            rule = rule._replace(comment=value)
        elif (word, value) != ("-m", "comment"):
            rule, known = rule._replace(conditional=True), False
        place += 2 if known else 1
    return rule


def _with_target(rule: RuleSeen, word: str, target: str) -> RuleSeen:
    if target in _VERDICTS:
        return rule._replace(verdict=_VERDICTS[target])
    if target in _HARMLESS:
        return rule
    return rule._replace(verdict="goto" if word == "-g" else "jump", target=target)
