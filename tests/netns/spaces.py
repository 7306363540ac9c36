"""Throw-away network namespaces, as hosts and as containers."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from libcalico.kernel import netns, sysctl
from libcalico.testing.machine import namespace_name


def sh(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True).stdout


class Space:
    """A throw-away namespace."""

    def __init__(self, kind: str) -> None:
        self.name = namespace_name(f"wl{kind}")
        sh("ip", "netns", "add", self.name)
        self.path = f"/run/netns/{self.name}"
        self.ip("link", "set", "lo", "up")

    def ip(self, *argv: str) -> Any:
        out = sh("ip", "-n", self.name, "-j", *argv)
        return json.loads(out) if out.strip() else []

    def links(self) -> list[str]:
        return [link["ifname"] for link in self.ip("link")]

    def setting(self, key: str) -> str:
        with netns.entered(self.path):
            return sysctl.read(key)

    def run(self, *argv: str, check: bool = True) -> str:
        return sh("ip", "netns", "exec", self.name, *argv, check=check)

    def close(self) -> None:
        sh("ip", "netns", "del", self.name, check=False)
