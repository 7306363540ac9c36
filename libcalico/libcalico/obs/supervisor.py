"""What a daemon reports to systemd (`Type=notify`, sd_notify(3)): ready, alive, and one line for `systemctl status`.

Without NOTIFY_SOCKET, or when nobody reads it, a report is dropped: no daemon waits for its supervisor.
"""

from __future__ import annotations

import contextlib
import socket

from libcalico.text import shown


class Supervisor:
    """`address` is NOTIFY_SOCKET's value: a path, or a name in the abstract namespace behind `@`. Empty: no systemd."""

    def __init__(self, address: str = "") -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._status = ""
        self.is_ready = False

    def ready(self) -> None:
        """The start is over; once."""
        if not self.is_ready:
            self.is_ready = True
            self._send("READY=1")

    def alive(self) -> None:
        """The watchdog of the unit (WatchdogSec) hears that the daemon works."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line of what the daemon does now; the same line again is not sent."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={shown(text)}")

    def _send(self, line: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.setblocking(False)
            door.sendto(line.encode(), self._address)
