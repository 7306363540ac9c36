"""node diags: this host in one archive without secrets (spec/calicoctl.md 7.2, docs/howto/debug.md)."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from calicoctl.commands.node_status import need_root
from calicoctl.diags import bundle, host_secrets, node
from calicoctl.diags.collect import Item, Wanted, collect, in_thread
from calicoctl.diags.findings import Finding
from calicoctl.diags.secrets import Secrets
from libcalico import __version__
from libcalico.client.connection import DEFAULT_FILE
from libcalico.clock import SystemClock
from libcalico.errors import CalicoError
from libcalico.text import shown

UPLOAD = "If required, you can upload the diagnostics bundle to a file sharing service."


def run(arguments: dict[str, Any]) -> int:
    """Collect, and print where the archive is."""
    need_root()
    print("Collecting diagnostics")
    folder = Path(tempfile.mkdtemp(prefix="calico"))
    print(f"Using temp dir: {folder}", flush=True)
    wanted = list(node.wanted(DEFAULT_FILE, arguments["--log-dir"]))
    announce(wanted)
    if not any(one.file.startswith("logs/") for one in wanted):
        print(f"No logs found in {arguments['--log-dir']}; skipping log copying")
    now = SystemClock().now()
    items, etcd = asyncio.run(_collect(wanted))
    secrets = Secrets()
    learn(secrets, items, DEFAULT_FILE)
    report_failures(wanted, bundle.clean(items, secrets))
    found = list(node.what_is_wrong({one.file: one for one in items}, etcd, SystemClock().now().timestamp()))
    path = folder / f"diags-{now:%Y%m%d_%H%M%S}.tar.gz"
    title = f"Diagnostics of host {socket.gethostname()}, {now:%Y-%m-%d %H:%M:%S} UTC, calicoctl {__version__}"
    save(path, title, found, items, secrets, now.timestamp())
    return 0


async def _collect(wanted: Sequence[Wanted]) -> tuple[list[Item], node.Etcd]:
    async def see() -> node.Etcd:
        try:
            async with asyncio.timeout(node.BIRD_S * 3):
                return await in_thread(partial(node.see_etcd, DEFAULT_FILE))
        except TimeoutError:
            return node.Etcd([], [], "etcd did not answer")
        except CalicoError as error:
            return node.Etcd([], [], str(error))

    items, etcd = await asyncio.gather(collect(wanted), see())
    return items, etcd


def save(
    path: Path, title: str, found: Sequence[Finding], items: Sequence[Item], secrets: Secrets, at_s: float
) -> None:
    """Write the archive, print what looks wrong and where it is."""
    bundle.write(path, title, found, items, secrets, at_s)
    for one in found:
        print(secrets.clean_text(f"Looks wrong: {one.text}"))
    print(f"\nDiags saved to {path}\n{UPLOAD}")


def announce(wanted: Sequence[Wanted]) -> None:
    """A line for each thing that is looked at."""
    for one in wanted:
        print(f"Dumping {one.title}")


def report_failures(wanted: Sequence[Wanted], items: Sequence[Item]) -> None:
    """What could not be had; commands as upstream words it."""
    for one, item in zip(wanted, items, strict=True):
        if item.problem and one.command:
            print(f"Failed to run command: {' '.join(one.command)}\nError: {item.problem}")
        elif item.problem:
            print(f"Not collected: {one.title}: {shown(item.problem)}")


def learn(secrets: Secrets, items: Sequence[Item], config: str) -> None:
    """The secrets of this host, and those of what was collected from configurations."""
    host_secrets.learn(secrets, config)
    for one in items:
        if one.file.startswith(("files/", "environment", "resources/")):
            secrets.learn_text(one.content)
