"""Sockets in another network namespace, over both builds."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from calico_native import netns as compiled
from calico_native.py import netns as twin
from libcalico.testing.machine import namespace_name


@pytest.fixture
def space(root: None) -> Iterator[str]:
    name = namespace_name("nat")
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield f"/run/netns/{name}"
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.parametrize("netns", [compiled, twin], ids=["compiled", "twin"])
class TestOpenSocket:
    def test_it_lives_there_and_we_stay_here(self, netns: object, space: str) -> None:
        home = os.readlink("/proc/thread-self/ns/net")
        descriptor = netns.open_socket(space, socket.AF_INET, socket.SOCK_STREAM)  # type: ignore[attr-defined]
        with socket.socket(fileno=descriptor) as one:
            assert os.readlink("/proc/thread-self/ns/net") == home
            assert not os.get_inheritable(descriptor)
            with pytest.raises(OSError, match="Network is unreachable"):
                one.connect(("192.0.2.1", 80))

    def test_what_is_no_namespace(self, netns: object, space: str, tmp_path: object) -> None:
        home = os.readlink("/proc/thread-self/ns/net")
        for path, error in ((f"{space}-gone", FileNotFoundError), ("/etc/passwd", OSError)):
            with pytest.raises(error):
                netns.open_socket(path, socket.AF_INET, socket.SOCK_STREAM)  # type: ignore[attr-defined]
        assert os.readlink("/proc/thread-self/ns/net") == home
