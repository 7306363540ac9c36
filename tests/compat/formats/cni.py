"""`cni.jsonl`: whole CNI calls with their effects in the datastore and in the kernel (vectors/CNI.md).

Needs root and etcd: the cases are played by `tests.compat.cni_player` in private network and mount namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from libcalico.testing.machine import DIE_WITH_US
from tests.compat.cni_player import cases
from tests.compat.contract import Options, Result

PLAYERS = 2


def claims(_path: Path, head: bytes) -> bool:
    """Each line has `given` with `netns`, and steps with `prog`."""
    first = head.split(b"\n", 1)[0]
    return b'"given"' in first and b'"netns"' in first and b'"prog"' in first


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every case whose name contains the wanted text."""
    wanted = [name for name, _case, _problem in cases(path, options.only)]
    missing = missing_service()
    if missing:
        failed = (missing,) if os.environ.get("CI") else ()
        yield from (Result(name, failed, missing) for name in wanted)
        return
    command = [
        *DIE_WITH_US, "unshare", "--net", "--mount", "--propagation", "private",
        sys.executable, "-m", "tests.compat.cni_player", str(path), options.only,
    ]  # fmt: skip
    players = [
        subprocess.Popen([*command, str(share), str(PLAYERS)], stdout=subprocess.PIPE, text=True)
        for share in range(PLAYERS)
    ]
    yield from _in_order(players, wanted)


def _in_order(players: list[subprocess.Popen[str]], wanted: list[str]) -> Iterator[Result]:
    """Results by place; a player that ends too early fails the cases that it did not play."""
    for number, name in enumerate(wanted):
        player = players[number % len(players)]
        assert player.stdout is not None
        line = player.stdout.readline()
        if not line:
            yield Result(name, (f"tests.compat.cni_player ended with status {player.wait()}",))
            continue
        outcome = json.loads(line)
        assert outcome["place"] == number
        yield Result(name, tuple(outcome["differences"]))
    for player in players:
        player.communicate()


def missing_service() -> str:
    """What this format needs and is not there; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root: run as root"
    for program in ("etcd", "ip", "nft", "unshare"):
        if shutil.which(program) is None:
            return f"needs the program {program}: install it"
    return ""
