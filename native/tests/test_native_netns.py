"""A socket in another network namespace: where it lives, where the thread is afterwards, what is refused."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SIOCGSKNS = 0x894C
HERE = "/proc/thread-self/ns/net"


def namespace_of(descriptor: int) -> int:
    """The inode of the namespace that a socket lives in."""
    handle = fcntl.ioctl(descriptor, SIOCGSKNS)
    try:
        return os.fstat(handle).st_ino
    finally:
        os.close(handle)


@pytest.fixture
def namespace() -> Iterator[str]:
    """The path of a namespace of its own, held by a thread that has unshared."""
    ready, done = threading.Event(), threading.Event()
    found: list[str] = []

    def hold() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0:
            found.append(f"/proc/self/task/{threading.get_native_id()}/ns/net")
        ready.set()
        done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait()
    try:
        if not found:
            if os.environ.get("CI"):
                pytest.fail("CI must let this test unshare a network namespace")
            pytest.skip("needs root to unshare a network namespace")
        yield found[0]
    finally:
        done.set()
        thread.join()


def test_the_socket_lives_there_and_the_thread_stays_here(netns: Any, namespace: str) -> None:
    there, here = os.stat(namespace).st_ino, os.stat(HERE).st_ino
    assert there != here
    descriptor = netns.open_socket(namespace, socket.AF_INET, socket.SOCK_DGRAM)
    try:
        assert namespace_of(descriptor) == there
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)
    assert os.stat(HERE).st_ino == here


def test_a_refused_socket_leaves_the_thread_here_and_no_descriptor(netns: Any, namespace: str) -> None:
    here, before = os.stat(HERE).st_ino, len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        netns.open_socket(namespace, socket.AF_INET, socket.SOCK_STREAM, 9999)
    assert os.stat(HERE).st_ino == here
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_no_namespace(netns: Any, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        netns.open_socket(str(tmp_path / "gone"), socket.AF_INET, socket.SOCK_DGRAM)
    plain = tmp_path / "file"
    plain.write_text("")
    with pytest.raises(OSError, match="setns"):
        netns.open_socket(str(plain), socket.AF_INET, socket.SOCK_DGRAM)
    assert len(os.listdir("/proc/self/fd")) == before
