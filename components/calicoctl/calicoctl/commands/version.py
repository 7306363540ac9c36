"""version: this program's and the cluster's (spec/calicoctl.md 7.5)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from calicoctl import cluster, session
from calicoctl.failures import CommandFailed
from libcalico import __version__
from libcalico.errors import CalicoError
from libcalico.model.resources import ClusterInformation

if TYPE_CHECKING:
    from calicoctl.session import Session

LABEL_WIDTH = 19


def run(arguments: dict[str, Any]) -> int:
    """Print the versions, with `--poll` again and again when they change."""
    pause_s = _pause(arguments["--poll"])
    print(_line("Client Version:", session.CLIENT_VERSION) + _line("Git commit:", "unknown"), end="")
    print(_line("Program Version:", f"{__version__} (does as {session.CLIENT_VERSION})"), end="")
    if arguments["--client"]:
        return 0
    try:
        client = session.connect(arguments)
    except CommandFailed:
        print("Unable to detect installed Calico version")
        return 0
    with client:
        cluster.name_cluster(client, arguments)
        last = ""
        while True:
            text = _cluster(client)
            if text != last:
                print(text, end="", flush=True)
                last = text
            if not pause_s:
                return 0
            time.sleep(pause_s)


def _pause(text: str | None) -> float:
    """Seconds; a Go duration."""
    if not text:
        return 0.0
    from libcalico.durations import NANOSECONDS, parse_duration

    try:
        pause_ns = parse_duration(text)
    except ValueError as error:
        raise CommandFailed(f"invalid poll interval specified: {error}") from None
    if pause_ns < 0:
        raise CommandFailed(f"invalid poll interval specified: {text} is negative: give a time such as 5s")
    return pause_ns / NANOSECONDS["s"]


def _cluster(client: Session) -> str:
    try:
        spec = client.get(ClusterInformation, "default").spec
    except CalicoError as error:
        raise CommandFailed(f"unable to retrieve Cluster Version or Type: {error}") from None
    return _line("Cluster Version:", spec.calico_version or "unknown") + _line(
        "Cluster Type:", spec.cluster_type or "unknown"
    )


def _line(label: str, value: str) -> str:
    return f"{label.ljust(LABEL_WIDTH)}{value}\n"
