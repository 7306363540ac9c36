"""A host of its own for a process: network and mount namespace, empty folders, and an etcd that it can reach.

etcd runs outside and listens on a UNIX socket, which no network namespace hides; `Door` is its TCP port inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from libcalico.testing.machine import DIE_WITH_US, free_port

HOST_MAC = "ee:ee:ee:ee:ee:ee"
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
PRIVATE = ("/var/lib/calico", "/run/calico", "/run/netns", "/etc/calico")
SOCKET = "localhost:2379"
DOOR_PORT = 2379
ENDPOINT = f"http://127.0.0.1:{DOOR_PORT}"
START_S = 60.0
MEMORY = "/dev/shm"  # where etcd need not wait for a disk
KERNEL_DEFAULTS = {
    "ipv4": {"rp_filter": 0, "accept_redirects": 1, "send_redirects": 1, "arp_ignore": 0, "arp_announce": 0,
             "proxy_arp": 0, "route_localnet": 0},
    "ipv6": {"disable_ipv6": 0, "accept_ra": 1, "forwarding": 0, "proxy_ndp": 0, "use_tempaddr": 0},
}  # fmt: skip
"""A new namespace may begin with the settings of the machine's first one instead."""


def sh(*argv: str, check: bool = True) -> str:
    """Run a command; its output."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{argv}: {done.stderr or done.stdout}"
    return done.stdout


def unshare(flags: int = CLONE_NEWNS | CLONE_NEWNET) -> None:
    """Give the calling process namespaces of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def enter_private_host() -> None:
    """From now on the calling process is a new host: only `lo`, and nothing in the folders of Calico."""
    unshare()
    sh("mount", "--make-rprivate", "/")
    for path in PRIVATE:
        Path(path).mkdir(parents=True, exist_ok=True)
        sh("mount", "-t", "tmpfs", "none", path)
    sh("ip", "link", "set", "lo", "up")
    reset_settings()


def reset_settings() -> None:
    """The kernel's own defaults in the calling thread's namespace, whatever the machine has."""
    for family, settings in KERNEL_DEFAULTS.items():
        for name, value in settings.items():
            for scope in ("all", "default"):
                Path(f"/proc/sys/net/{family}/conf/{scope}/{name}").write_text(str(value))
    for scope, value in (("all", 0), ("default", 1)):
        Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad").write_text(str(value))


@contextlib.contextmanager
def laid_files(files: Mapping[str, str]) -> Iterator[None]:
    """Files on the host. Those outside of the private folders are the machine's: afterwards they are as they were."""
    with contextlib.ExitStack() as undo:
        for name, text in files.items():
            path = Path(name)
            if not name.startswith(PRIVATE):
                _remember(path, undo)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        yield


def _remember(path: Path, undo: contextlib.ExitStack) -> None:
    for folder in reversed([one for one in path.parents if not one.exists()]):
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
    if path.exists():
        undo.callback(path.write_bytes, path.read_bytes())
    else:
        undo.callback(path.unlink, missing_ok=True)


class HiddenEtcd:
    """An etcd that listens on a UNIX socket for its clients."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="t-vectors-etcd-", dir=MEMORY if os.path.isdir(MEMORY) else None)
        peer = f"http://127.0.0.1:{free_port()}"
        self._process = subprocess.Popen(
            [*DIE_WITH_US, "etcd", "--data-dir", "data", "--listen-client-urls", f"unix://{SOCKET}",
             "--advertise-client-urls", f"unix://{SOCKET}", "--listen-peer-urls", peer,
             "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--log-level", "error"],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, "etcd does not start"
            time.sleep(0.02)

    @property
    def path(self) -> str:
        """Its socket."""
        return f"{self.folder}/{SOCKET}"

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(self.path)
            probe.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            return b'"true"' in probe.recv(65536)
        return False

    def close(self) -> None:
        """End it; nothing stays."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Door:
    """A TCP port in the namespace of the caller that leads to a UNIX socket."""

    def __init__(self, target: str, port: int = DOOR_PORT) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _address = self._listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
