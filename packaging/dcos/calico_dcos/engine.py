"""Docker Engine and its plug-ins, asked over their UNIX sockets: by the API, since the command line's words change."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any

SOCKET = "/var/run/docker.sock"
PLUGIN_ANSWER = b"HTTP/1.0 200 OK"
LOCAL_FROM_MAJOR = 23
"""Docker Engine 23 has no cluster store: with its keys in daemon.json it does not start."""


class EngineError(Exception):
    """The engine refused a request; the text has its reason."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """To the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, method: str, target: str, body: object = None, timeout_s: float = 20.0) -> tuple[int, Any]:
    """Status and JSON answer of one request. Raises `OSError` while the engine is not there."""
    connection = _Connection(path, timeout_s)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, target, text, {} if text is None else {"Content-Type": "application/json"})
        answer = connection.getresponse()
        read = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{path} does not speak HTTP: {error!r}") from None
    finally:
        connection.close()
    try:
        return answer.status, json.loads(read) if read.strip() else None
    except ValueError:
        return answer.status, {"message": read[:200].decode("utf-8", "replace")}


def info(path: str) -> Mapping[str, Any]:
    """`GET /info`. Raises `OSError`, `EngineError`."""
    status, answer = ask(path, "GET", "/info")
    if status != http.client.OK or not isinstance(answer, dict):
        raise EngineError(f"docker info: {_reason(answer)}")
    return answer


def is_local(found: Mapping[str, Any]) -> bool:
    """Is this an engine without a cluster store?"""
    major = str(found.get("ServerVersion", "")).partition(".")[0]
    return not found.get("ClusterStore") and (not major.isdecimal() or int(major) >= LOCAL_FROM_MAJOR)


def network(path: str, name: str) -> Mapping[str, Any] | None:
    """A network by its name; None if there is none. Raises `OSError`, `EngineError`."""
    status, answer = ask(path, "GET", f"/networks/{name}")
    if status == http.client.NOT_FOUND:
        return None
    if status != http.client.OK or not isinstance(answer, dict):
        raise EngineError(f"docker network inspect {name}: {_reason(answer)}")
    return answer


def create_network(path: str, name: str, subnet: str) -> None:
    """The network of Calico's driver; one that is there already is success. Raises `OSError`, `EngineError`."""
    body = {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "calico",
        "Options": {"org.projectcalico.profile": name},
        "IPAM": {"Driver": "calico-ipam", "Config": [{"Subnet": subnet}]},
    }
    status, answer = ask(path, "POST", "/networks/create", body, timeout_s=60.0)
    if status != http.client.CREATED and "already exists" not in _reason(answer):
        raise EngineError(f"docker network create {name}: {_reason(answer)}")


def plugin_answers(path: str, call: str, timeout_s: float = 4.0) -> bool:
    """Does a plug-in answer a GET of HTTP/1.0 without headers with 200 in its first 1024 bytes?"""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            asked.settimeout(timeout_s)
            asked.connect(path)
            asked.sendall(f"GET /{call} HTTP/1.0\r\n\r\n".encode())
            return PLUGIN_ANSWER in asked.recv(1024)
    except OSError:
        return False


def _reason(answer: object) -> str:
    message = answer.get("message") if isinstance(answer, dict) else answer
    return " ".join(str(message).split())[:400]
