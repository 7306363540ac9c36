"""How each endpoint of etcd is, asked by plain HTTP: for diagnostics, which must say which one is ill and how.

Blocks for a few seconds at most, whatever the endpoints do. Source: etcd's `/health`, and its gateway's
`/v3/maintenance/status`."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from libcalico.datastore import certificates, diagnosis
from libcalico.datastore.http_line import Endpoint, endpoint_of
from libcalico.datastore.settings import EtcdConfig

if TYPE_CHECKING:
    import ssl

OK = 200
LARGEST = 1 << 16


class MemberHealth(NamedTuple):
    """One endpoint. `problem` is empty when it serves; `clock_s` is its clock in seconds since 1970, 0 if unknown."""

    url: str
    problem: str
    version: str = ""
    size: int = 0
    clock_s: float = 0.0


def look(config: EtcdConfig, timeout_s: float) -> list[MemberHealth]:
    """Every endpoint, side by side; each step of at most five takes `timeout_s`. Raises `BadData` for certificates that
    cannot be used."""
    tls = certificates.read_tls(config.certificates)
    endpoints = [endpoint_of(url) for url in config.endpoints]
    context = None
    if any(endpoint.is_tls for endpoint in endpoints):
        tls = certificates.with_system_store(tls)
        context = certificates.http_context(tls)
    routes = [diagnosis.Route(url, tls, config.certificates) for url in config.endpoints]
    reasons = diagnosis.explain_all(routes, timeout_s)
    found = [MemberHealth(url, reason) for url, reason in zip(config.endpoints, reasons, strict=True)]

    def ask(place: int) -> None:
        found[place] = _health(endpoints[place], context, timeout_s)

    living = [place for place, reason in enumerate(reasons) if reason == diagnosis.ANSWERS]
    threads = [threading.Thread(target=ask, args=(place,), daemon=True) for place in living]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def none_serves(members: Sequence[MemberHealth]) -> bool:
    """Is there no endpoint to ask?"""
    return all(member.problem for member in members)


def _health(endpoint: Endpoint, context: ssl.SSLContext | None, timeout_s: float) -> MemberHealth:
    try:
        status, body, clock_s = _get(endpoint, context, timeout_s, "GET", "/health")
        healthy = _members(body)
        if status != OK or str(healthy.get("health")).lower() != "true":
            reason = healthy.get("reason") or f"it answers {status}"
            return MemberHealth(endpoint.url, f"it is not healthy: {str(reason)[:200]}", clock_s=clock_s)
        _, body, _ = _get(endpoint, context, timeout_s, "POST", "/v3/maintenance/status")
        found = _members(body)
        problem = "" if found.get("leader") or "error" in found else "it knows no leader"
        size = int(str(found.get("dbSize", 0)))
        return MemberHealth(endpoint.url, problem, str(found.get("version", "")), size, clock_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return MemberHealth(endpoint.url, f"it does not answer /health: {str(error) or type(error).__name__}")


def _get(
    endpoint: Endpoint, context: ssl.SSLContext | None, timeout_s: float, method: str, path: str
) -> tuple[int, bytes, float]:
    """Status, body, and the server's clock."""
    if endpoint.is_tls:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            endpoint.host, endpoint.port, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
    try:
        connection.request(method, path, b"{}" if method == "POST" else None)
        answer = connection.getresponse()
        date = answer.getheader("Date")
        return answer.status, answer.read(LARGEST), parsedate_to_datetime(date).timestamp() if date else 0.0
    finally:
        connection.close()


def _members(body: bytes) -> dict[str, Any]:
    found = json.loads(body)
    return found if isinstance(found, dict) else {}
