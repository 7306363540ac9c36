"""`calico-node`: one program with upstream's flags, exactly one mode in each call (spec/node-startup.md 1).

Each mode imports what it needs itself: a probe loads no agent."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libcalico import __version__
from libcalico.config import boolean, seconds, shown
from libcalico.conventions import NODENAME_FILE
from libcalico.errors import BadData, CalicoError
from libcalico.obs import logs

log = logging.getLogger(__name__)

CONFD = "dcos-calico-confd"
HEALTH = ("felix-live", "felix-ready", "bird-live", "bird6-live", "bird-ready", "bird6-ready")
ONCE = "allocate-tunnel-addrs-run-once"
MODES = {
    "v": "print the version",
    "startup": "prepare this host: its Node, default pools and settings, the nodename file",
    "allocate-tunnel-addrs": "assign this host's tunnel addresses, once",
    ONCE: "the same",
    "allocate-tunnel-addrs-daemon": "assign them again whenever pools change, where the agent is not ours",
    "monitor-addresses": "find this host's addresses again every AUTODETECT_POLL_INTERVAL",
    "felix": "run the agent",
    "confd": f"keep BIRD's configuration ({CONFD})",
    "show-status": "show BIRD, its peers and its routes",
    "shutdown": "write the time of a shutdown",
    "monitor-token": "nothing: it is for Kubernetes",
    **{name: f"check: {name.replace('-', ' is ')}" for name in HEALTH},
}
REFUSED = {
    "init": "it prepares hosts of Kubernetes: use -startup",
    "hostpath-init": "it prepares volumes of Kubernetes",
    "bpf": "eBPF is not supported",
    "status-reporter": "the agent (-felix) fills CalicoNodeStatus objects itself",
}
OPTIONS = ("threshold-time", "confd-confdir")
SWITCHES = ("confd-run-once", "confd-keep-stage-file")
"""With -confd: they are passed on."""
THRESHOLD_S = 30.0
NO_MODE = "No valid options provided. Usage:"
MANY_MODES = "More than one incompatible argument provided"


class Usage(BadData):
    """The command line is wrong."""


def usage() -> str:
    """The flags, one a line."""
    lines = [f"  -{name}\n\t{text}" for name, text in MODES.items()]
    lines += [f"  -{name}\n\tof -confd, which gets it" for name in SWITCHES]
    lines.append(
        f"  -threshold-time duration\n\tlimit of a check, and how long all peers must be up at first ({THRESHOLD_S:g}s)"
    )
    return "Usage of calico-node:\n" + "\n".join(lines)


def parse_flags(words: Sequence[str]) -> dict[str, Any]:
    """Flags as Go reads them: `-x`, `--x`, `-x=value`; `-x value` of those with a value. Raises `Usage`."""
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or word.startswith("---") or not name:
            raise Usage(f"{shown(word)} is no flag")
        if name in REFUSED:
            raise Usage(f"-{name} is not supported here: {REFUSED[name]}")
        if name in OPTIONS:
            if not has_value and not rest:
                raise Usage(f"flag needs an argument: -{name}")
            found[name] = value if has_value else rest.pop(0)
        elif name in MODES or name in SWITCHES:
            found[name] = _switch(name, value) if has_value else True
        else:
            raise Usage(f"flag provided but not defined: -{shown(name)[1:-1]}")
    return found


def _switch(name: str, text: str) -> bool:
    try:
        return boolean(text)
    except ValueError as error:
        raise Usage(f"invalid boolean value {shown(text)} for -{name}: it {error}") from None


def modes_of(flags: Mapping[str, Any]) -> list[str]:
    """The modes that are asked for: one, or several checks. Raises `Usage`."""
    modes = [name for name in MODES if flags.get(name)]
    if ONCE in modes and "allocate-tunnel-addrs" in modes:
        modes.remove(ONCE)
    if not modes:
        raise Usage(NO_MODE)
    if len(modes) > 1 and not set(modes) <= set(HEALTH):
        raise Usage(f"{MANY_MODES}: {' '.join(f'-{name}' for name in modes)}")
    return modes


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    try:
        flags = parse_flags(words)
        modes = modes_of(flags)
        threshold_s = _threshold(flags.get("threshold-time"))
    except Usage as error:
        print(f"{error}\n{usage()}")
        return 1
    if modes[0] == "v":
        print(__version__)
        return 0
    if modes[0] == "felix":
        from calico_felix.main import main as run_agent

        return run_agent([])
    try:
        if modes[0] in HEALTH:
            return _check(modes, threshold_s)
        return _run(modes[0], [f"-{name}" for name in SWITCHES if flags.get(name)])
    except CalicoError as error:
        log.error("%s", ": ".join([str(error), *getattr(error, "__notes__", ())]))
        log.error("Terminating")
        return 1
    except KeyboardInterrupt:
        return 1


def _threshold(text: str | None) -> float:
    if text is None:
        return THRESHOLD_S
    try:
        found = seconds(text)
    except ValueError as error:
        raise Usage(f"invalid value {shown(text)} for -threshold-time: it {error}") from None
    if found <= 0:
        raise Usage(f"invalid value {shown(text)} for -threshold-time: it is not above 0")
    return found


def _run(mode: str, switches: Sequence[str]) -> int:
    _log_to_stdout(os.environ.get("CALICO_STARTUP_LOGLEVEL", "").strip())
    if mode == "monitor-token":
        log.info("-monitor-token does nothing without Kubernetes")
        return 0
    if mode == "confd":
        return _exec_confd(switches)
    if mode == "show-status":
        from calico_felix.startup.show_status import show_status

        print(asyncio.run(show_status()))
        return 0
    from calico_felix.startup import modes

    if mode == "shutdown":
        modes.shut_down(os.environ)
        return 0
    runs: dict[str, Callable[[Mapping[str, str]], Awaitable[None]]] = {
        "startup": modes.start_up,
        "allocate-tunnel-addrs": modes.allocate_tunnel_addresses,
        ONCE: modes.allocate_tunnel_addresses,
        "allocate-tunnel-addrs-daemon": modes.keep_tunnel_addresses,
        "monitor-addresses": modes.monitor_addresses,
    }

    async def run() -> None:
        await runs[mode](os.environ)

    asyncio.run(run())
    return 0


def _log_to_stdout(severity: str) -> None:
    logs.configure(severity or "info", sys.stdout)
    if severity.lower() not in logs.SEVERITIES:
        log.warning("CALICO_STARTUP_LOGLEVEL=%s is none of %s: info is used", shown(severity), ", ".join(logs.NAMES))


def _check(modes: Sequence[str], threshold_s: float) -> int:
    from calico_felix.configuration import load_configuration
    from calico_felix.startup import checks
    from libcalico.clock import SystemClock

    nodename_file = os.environ.get("CALICO_NODENAME_FILE") or NODENAME_FILE
    try:
        place = checks.places(load_configuration(os.environ), nodename_file)
        asyncio.run(checks.check(modes, place, SystemClock(), threshold_s))
    except CalicoError as error:
        print(error)
        return 1
    return 0


def _exec_confd(switches: Sequence[str]) -> int:
    """Become the component that has BIRD's configuration: components never import each other."""
    beside = Path(sys.executable).parent / CONFD
    program = str(beside) if os.access(beside, os.X_OK) else shutil.which(CONFD)
    if program is None:
        raise BadData(f"{CONFD} is neither in {beside.parent} nor in PATH: install the package calico-bird")
    sys.stdout.flush()
    try:
        os.execv(program, [CONFD, *switches])
    except OSError as error:
        raise BadData(f"cannot execute {program}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
