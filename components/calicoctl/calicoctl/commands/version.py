"""version: this program's and the cluster's (spec/calicoctl.md 7.5)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import durationpy

from calicoctl import session
from calicoctl.failures import CommandFailed
from libcalico import __version__
from libcalico.errors import CalicoError

if TYPE_CHECKING:
    from libcalico.client import Client

LABEL_WIDTH = 19


def run(arguments: dict[str, Any]) -> int:
    """Print the versions, with `--poll` again and again when they change."""
    pause_s = _pause(arguments["--poll"])
    print(_line("Client Version:", session.CLIENT_VERSION) + _line("Git commit:", __version__), end="")
    if arguments["--client"]:
        return 0
    try:
        client = session.connect(arguments)
    except CommandFailed:
        print("Unable to detect installed Calico version")
        return 0
    with client:
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
    if not text:
        return 0.0
    try:
        return float(durationpy.from_str(text).total_seconds())
    except durationpy.DurationError:
        raise CommandFailed(f'invalid poll interval specified: time: invalid duration "{text}"') from None


def _cluster(client: Client) -> str:
    try:
        spec = client.get("ClusterInformation", "default").spec
    except CalicoError as error:
        raise CommandFailed(f"unable to retrieve Cluster Version or Type: {error}") from None
    return _line("Cluster Version:", spec.calico_version or "unknown") + _line(
        "Cluster Type:", spec.cluster_type or "unknown"
    )


def _line(label: str, value: str) -> str:
    return f"{label.ljust(LABEL_WIDTH)}{value}\n"
