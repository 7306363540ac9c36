"""Forwarding between interfaces, which a host of containers needs: kept on while settings ask for it."""

from __future__ import annotations

import logging

from libcalico.kernel import sysctl
from libcalico.kernel.errors import KernelError

log = logging.getLogger(__name__)

KEYS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


class Forwarding:
    """The kernel's switches; left alone until `start` is called."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._problems: dict[str, str] = {}

    def start(self) -> None:
        """Settings ask for forwarding."""
        self._keys = [key for key in KEYS if "ipv6" not in key or sysctl.has_ipv6()]
        self.ensure()

    def ensure(self) -> None:
        """Switch on what is off; what fails is logged once and tried at the next call."""
        for key in list(self._keys):
            try:
                if sysctl.ensure(key, 1):
                    log.info("%s was off: switched on (IPForwarding=disabled leaves it alone)", key)
                self._problems.pop(key, None)
            except KernelError as error:
                self._note(key, error)

    def _note(self, key: str, error: KernelError) -> None:
        if error.gone:
            self._keys.remove(key)
        if self._problems.get(key) != str(error):
            log.warning("%s", error)
        self._problems[key] = str(error)

    def problems(self) -> list[str]:
        """Switches that are off, or not there."""
        return [f"{problem}: no packet is forwarded to or from workloads" for problem in self._problems.values()]
