"""The services of this host, by their processes (spec/calicoctl.md 7.1): those in our own network namespace, since an
agent or a BIRD elsewhere serves another network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

AGENTS, AGENT_FLAG = ("calico-felix", "calico_felix.main"), "-felix"
OTHER_COMMANDS = {"startup", "teardown"}
INTERPRETER, WITH_VALUE, PROGRAM_FOLLOWS = "python", ("-X", "-W"), ("-m", "-c")


def command_lines() -> Iterator[list[str]]:
    """The words of every process in our network namespace."""
    own = _network(os.getpid())
    for name in os.listdir("/proc"):
        if not name.isdigit() or _network(int(name)) != own:
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().decode("utf-8", "replace").split("\0")
        except OSError:  # it has ended
            continue
        if words[0]:
            yield words[:-1]


def _network(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def has_agent(lines: Iterable[Sequence[str]]) -> bool:
    """Is one of the processes the node agent: `calico-felix`, or any program with `-felix` as its first argument?"""
    return any(map(_is_agent, lines))


def _is_agent(words: Sequence[str]) -> bool:
    name, *arguments = _program(words)
    return arguments[:1] == [AGENT_FLAG] or (name in AGENTS and not OTHER_COMMANDS.intersection(arguments))


def _program(words: Sequence[str]) -> Sequence[str]:
    """The name of a program and its arguments, without the interpreter in front of a script or a module."""
    rest = list(words)
    if os.path.basename(rest[0]).startswith(INTERPRETER):
        rest.pop(0)
        while rest and rest[0].startswith("-") and rest[0] not in PROGRAM_FOLLOWS:
            del rest[: 2 if rest[0] in WITH_VALUE else 1]
        if rest[:1] == ["-c"]:
            return [""]
        rest = rest[1:] if rest[:1] == ["-m"] else rest
    return [os.path.basename(rest[0]), *rest[1:]] if rest else [""]


def has_program(lines: Iterable[Sequence[str]], name: str) -> bool:
    """Does a process of this program run?"""
    return any(os.path.basename(words[0]) == name for words in lines)
