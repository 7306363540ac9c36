"""`calico-libnetwork-plugin`: settings are variables (docs/howto/docker.md); `-v` prints the version."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from calico_libnetwork.daemon import Daemon
from calico_libnetwork.settings import Settings, read
from libcalico import __version__
from libcalico.client.objects import AsyncClient
from libcalico.datastore.etcd import EtcdDatastore
from libcalico.datastore.settings import EtcdConfig, etcd_config, from_environment
from libcalico.errors import CalicoError
from libcalico.obs import logs

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """The process; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["-v"], ["--version"]):
        print(__version__)
        return 0
    if arguments:
        print(f"unknown argument {arguments[0]!r}: settings are variables, see docs/howto/docker.md", file=sys.stderr)
        return 1
    logs.configure("debug" if os.environ.get("CALICO_DEBUG") else "info")
    failures: list[BaseException] = []
    try:
        settings = read(os.environ)
        asyncio.run(_run(settings, etcd_config(from_environment(os.environ))))
    except* CalicoError as group:
        failures += group.exceptions
    for error in failures:
        log.error("%s", error)
    return 1 if failures else 0


async def _run(settings: Settings, etcd: EtcdConfig) -> None:
    """Until SIGTERM or SIGINT."""
    datastore = EtcdDatastore(etcd)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    daemon = asyncio.ensure_future(Daemon(settings, AsyncClient(datastore)).run())
    waiting = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({daemon, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        daemon.cancel()
        await asyncio.wait({daemon})
        await datastore.close()
    if not daemon.cancelled() and (error := daemon.exception()) is not None:
        raise error


if __name__ == "__main__":
    sys.exit(main())
