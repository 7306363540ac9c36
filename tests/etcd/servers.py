"""etcds as people have them: with TLS, with users, three of them, far away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from libcalico.testing.certificates import Certificates, Pair
from libcalico.testing.machine import DIE_WITH_US, free_port

LONGEST_START_S = 60.0
USERS = (
    "role add calico",
    "role grant-permission calico --prefix readwrite /calico/",
    "user add calico:s3cret",
    "user grant-role calico calico",
    "user add root:r",
    "user grant-role root root",
)
USER = {"ETCD_USERNAME": "calico", "ETCD_PASSWORD": "s3cret"}


class Server:
    """One etcd, alone or a member of a cluster. `options` go on its command line."""

    def __init__(self, folder: Path, name: str = "default", options: Sequence[str] = (), scheme: str = "http") -> None:
        self.folder = folder
        self.name = name
        self.url = f"{scheme}://127.0.0.1:{free_port()}"
        self.peer = f"http://127.0.0.1:{free_port()}"
        self.options = list(options)
        self.cluster = f"{name}={self.peer}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        """Start it; its data are those of the last time."""
        self._process = subprocess.Popen(
            [*DIE_WITH_US, "etcd", "--name", self.name, "--data-dir", str(self.folder / self.name),
             "--listen-client-urls", self.url, "--advertise-client-urls", self.url, "--listen-peer-urls", self.peer,
             "--initial-advertise-peer-urls", self.peer, "--initial-cluster", self.cluster, *self.options],
            stdout=(self.folder / f"{self.name}.log").open("ab"),
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it accepts connections and, without TLS, says that it is healthy."""
        deadline = time.monotonic() + LONGEST_START_S
        while not self._answers():
            assert time.monotonic() < deadline, f"etcd does not answer: see {self.folder}/{self.name}.log"
            time.sleep(0.05)

    def _answers(self) -> bool:
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1, context=context) as answer:
                return b"true" in answer.read()
        except urllib.error.URLError as error:
            return isinstance(error.reason, ssl.SSLError)  # it wants a certificate, so it is there
        except ssl.SSLError:
            return True
        except OSError:
            return False

    def send(self, number: signal.Signals) -> None:
        """SIGSTOP freezes it, all of its threads once this returns; SIGCONT lets it go on."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        threads = Path(f"/proc/{self._process.pid}/task")
        while number == signal.SIGSTOP and not all(map(_is_stopped, threads.iterdir())):
            time.sleep(0.001)

    def kill(self) -> None:
        """SIGKILL; the data stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def etcdctl(self, words: str, user: str = "") -> str:
        """Run etcdctl against it; what it prints."""
        login = ["--user", user] if user else []
        command = ["etcdctl", "--endpoints", self.url, *login, *words.split()]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        return subprocess.run(command, check=True, capture_output=True, env=environment, timeout=30, text=True).stdout

    def ask_for_users(self) -> None:
        """Switch authentication on, with the user of `USER`."""
        for words in (*USERS, "auth enable"):
            self.etcdctl(words)


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start servers that need each other, and end them."""
    try:
        for server in servers:
            server.start(wait=False)
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.kill()


def tls_options(pair: Pair, authority: str = "") -> list[str]:
    """Options of a server with TLS; with an authority it asks clients for certificates."""
    asks = ["--client-cert-auth", "--trusted-ca-file", authority] if authority else []
    return ["--cert-file", pair.certificate, "--key-file", pair.key, *asks]


def tls_server(folder: Path, certificates: Certificates, pair: Pair | None = None, asks: bool = True) -> Server:
    """An etcd with TLS, which asks for clients' certificates if it `asks`."""
    authority = certificates.ca.certificate if asks else ""
    return Server(folder, options=tls_options(pair or certificates.server, authority), scheme="https")


def cluster(folder: Path) -> list[Server]:
    """Three members, with etcd's own intervals."""
    members = [Server(folder, f"m{number}") for number in range(3)]
    for member in members:
        member.cluster = ",".join(f"{one.name}={one.peer}" for one in members)
    return members


def leader(members: Sequence[Server]) -> Server:
    """Which of them leads."""
    for member in members:
        with urllib.request.urlopen(f"{member.url}/metrics", timeout=5) as answer:
            if b"\netcd_server_is_leader 1" in answer.read():
                return member
    raise AssertionError("no member leads")


@contextlib.contextmanager
def far_away(server: Server, one_way_s: float) -> Iterator[str]:
    """The URL of a port at which the server answers as from far away: each packet takes so long."""
    loop = asyncio.new_event_loop()
    target = int(server.url.rpartition(":")[2])

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                loop.call_later(one_way_s, writer.write, data)
        loop.call_later(one_way_s, writer.close)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * one_way_s)  # TCP's own handshake
        inner, outer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, outer), pump(inner, writer))

    listener: Any = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    port = listener.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"{server.url.partition('://')[0]}://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "TtXZ"
