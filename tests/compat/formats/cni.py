"""`cni.jsonl`: whole CNI calls with their effects in the datastore and in the kernel (vectors/CNI.md).

Needs root and etcd: the cases are played by `tests.compat.cni_player` in a private network and mount namespace.
`DECIDED` names every case where the product decides otherwise than the recorded release, step by step: what differs,
why, and what we do instead. A decided difference that does not occur any more is a failure too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.compat.contract import Options, Result

ANY = "ANY"
CLEAN = "CLEAN"
WIRED = "WIRED"
_UP = {"etcd": WIRED, "host": WIRED, "containers": WIRED}
_OLD_RESULT = {"cniVersion": "0.1.0", "ip4": {"ip": "172.29.0.0/32"}, "dns": {}}
_RESULT = {
    "cniVersion": "0.3.1",
    "interfaces": [{"name": "cali5f0c9e11-2b"}, {"name": "eth0", "mac": "<mac1>", "sandbox": "<netns:cniv-a>"}],
    "ips": [{"version": "4", "interface": 1, "address": "172.29.0.0/32"}],
    "dns": {},
}


class Decision(NamedTuple):
    """Why a case differs, and by step and aspect what we do instead (a value, or a word for a state)."""

    why: str
    steps: dict[int, dict[str, Any]]


DECIDED = {
    "mesos-label-long": Decision(
        "a value over 63 bytes is compressed, not refused (spec/cni.md 9.3)",
        {0: {"exit": 0, "stdout": _OLD_RESULT, "etcd": WIRED}, 1: {"etcd": CLEAN}},
    ),
    "mesos-nested-id": Decision(
        "container ids with a dot work, under a hashed interface name (spec/cni.md 2.1, 4.4)",
        {0: {"exit": 0, "stdout": _OLD_RESULT, "etcd": WIRED, "host": WIRED}, 1: {"etcd": CLEAN}},
    ),
    "second-network": Decision(
        "DEL of a further network leaves the interface to the network whose address it has (spec/cni.md 5.2)",
        {2: _UP},
    ),
    "same-first-eleven": Decision(
        "the second container gets another interface name, the first keeps its own (spec/cni.md 4.4, 12)",
        {
            1: {
                "stdout": {
                    **_RESULT,
                    "interfaces": [
                        {"name": "calif0074c91512"},
                        {"name": "eth0", "mac": "<mac2>", "sandbox": "<netns:cniv-b>"},
                    ],
                    "ips": [{"version": "4", "interface": 1, "address": "172.29.0.1/32"}],
                },
                "etcd": WIRED,
                "host": WIRED,
                "containers": WIRED,
            },
            2: {"etcd": WIRED, "host": WIRED},
        },
    ),
    "del-without-netns": Decision(
        "the host interface goes too (spec/cni.md 6)", {1: {"host": CLEAN, "containers": CLEAN}}
    ),
    "del-empty-netns": Decision(
        "the host interface goes too (spec/cni.md 6)", {1: {"host": CLEAN, "containers": CLEAN}}
    ),
    "add-interface-exists": Decision(
        "the error says which interface",
        {
            0: {
                "stdout": {
                    "code": 999,
                    "msg": "file exists",
                    "details": "interface eth0 exists already in the container's network namespace",
                }
            }
        },
    ),
    "dual-stack-v6-missing": Decision("the IPv4 address is given back (spec/cni.md 5.3)", {0: {"etcd": CLEAN}}),
    "dataplane-type": Decision("refused before an address is taken (spec/cni.md 12)", {0: {"etcd": CLEAN}}),
    "policy-k8s": Decision(
        "accepted; no profile is made (spec/cni.md 2.3)",
        {0: {"exit": 0, "stdout": _RESULT, **_UP}, 1: {"etcd": CLEAN, "containers": CLEAN}},
    ),
    "bad-stdin": Decision(
        "a wrong JSON type is code 6 with member, value and wanted type (spec/cni.md 12)",
        {6: {"stdout": {"code": 6, "msg": "failed to load netconf: mtu is '1500', wanted integer"}}},
    ),
    "version-command": Decision(
        "our version; bad flags are code 100 and exit 1 (spec/cni.md 1.2)",
        {
            4: {"stdout": ANY},
            5: {"stdout": ANY},
            6: {"exit": 1, "stdout": {"code": 100, "msg": "failed to parse CLI flags: -x: known are -v and -t"}},
        },
    ),
    "no-nodename-file": Decision(
        "DEL goes on without the file (spec/cni.md 4, dcos.md 9.2)", {1: {"exit": 0, "stdout": None}}
    ),
    "route-taken": Decision(
        "the interface is removed again (spec/cni.md 5.3)", {0: {"host": CLEAN, "containers": CLEAN}}
    ),
}


def claims(_path: Path, head: bytes) -> bool:
    """Each line has `given` with `netns`, and steps with `prog`."""
    first = head.split(b"\n", 1)[0]
    return b'"given"' in first and b'"netns"' in first and b'"prog"' in first


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every case whose name contains the wanted text."""
    missing = _missing()
    if missing:
        for line in filter(str.strip, path.read_text().splitlines()):
            name = json.loads(line)["name"]
            if options.only in name:
                yield Result(name, missing if os.environ.get("CI") else "", missing)
        return
    command = [
        "unshare",
        "--net",
        "--mount",
        "--propagation",
        "private",
        sys.executable,
        "-m",
        "tests.compat.cni_player",
    ]
    with subprocess.Popen(
        [*command, str(path), options.only], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as player:
        assert player.stdout is not None
        for line in player.stdout:
            outcome = json.loads(line)
            yield Result(outcome["name"], outcome.get("crash") or _judge(outcome["name"], outcome["differences"]))
    if player.returncode:
        yield Result("player", f"tests.compat.cni_player ended with status {player.returncode}")


def _missing() -> str:
    if os.geteuid() != 0:
        return "needs root: run as root"
    for program in ("etcd", "ip", "nft", "unshare"):
        if shutil.which(program) is None:
            return f"needs the program {program}: install it"
    return ""


def _judge(name: str, differences: list[dict[str, Any]]) -> str:
    """Empty when exactly the decided differences occurred, each the way that was decided."""
    decision = DECIDED.get(name, Decision("", {}))
    left = {(step, aspect) for step, aspects in decision.steps.items() for aspect in aspects}
    for entry in differences:
        step, aspect, ours = entry["step"], entry["aspect"], entry["ours"]
        if (step, aspect) not in left:
            return f"step {step} {aspect}: {_difference(ours, entry['theirs'])}"
        left.discard((step, aspect))
        wanted = decision.steps[step][aspect]
        problem = _state_problem(aspect, wanted, ours)
        if problem:
            return f"step {step} {aspect}: {problem} ({decision.why})"
    if left:
        return f"decided differences that do not occur: {sorted(left)} ({decision.why})"
    return ""


def _state_problem(aspect: str, wanted: Any, ours: Any) -> str:
    if wanted == ANY:
        return ""
    if wanted in (CLEAN, WIRED):
        wired = _is_wired(aspect, ours)
        return "" if wired == (wanted == WIRED) else f"wanted {wanted}, is {json.dumps(ours)[:400]}"
    return "" if wanted == ours else f"wanted {json.dumps(wanted)}, is {json.dumps(ours)}"


def _is_wired(aspect: str, ours: dict[str, Any]) -> bool:
    if aspect == "etcd":
        endpoints = sum("/workloadendpoints/" in key for key in ours)
        held = sum(len(value["held"]) for key, value in ours.items() if "/assignment/" in key)
        handles = sum("/ipam/v2/handle/" in key for key in ours)
        return endpoints == held == handles and endpoints > 0
    if aspect == "host":
        return bool(ours["links"]) and len(ours["links"]) == len(ours["routes"])
    return any(one["links"] for one in ours.values())


def _difference(ours: Any, theirs: Any, path: str = "") -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(set(ours) | set(theirs)):
            if ours.get(key) != theirs.get(key):
                return _difference(ours.get(key), theirs.get(key), f"{path}/{key}")
    return f"{path}: {json.dumps(ours)[:300]}, expected {json.dumps(theirs)[:300]}"
