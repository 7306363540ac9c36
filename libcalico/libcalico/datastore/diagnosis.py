"""Why an etcd cannot be reached, found out by trying it with plain sockets, in the words of who has to mend it.

gRPC's own texts differ by version, and do not say which setting is wrong. Used when all endpoints have failed, or when
one is silent.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from libcalico.datastore.certificates import Certificates, Tls, ascii_of, client_context, load_pair

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What an HTTP/2 client says first: the magic words and an empty SETTINGS frame."""
TLS_ALERT = 0x15
SETTINGS_FRAME = 4
UNKNOWN_KEYS = (
    (bytes.fromhex("302a300506032b6570032100"), "Ed25519"),
    (bytes.fromhex("06072a8648ce3d020106052b8104002303818600"), "P-521"),
)
"""How a certificate's public key of a kind begins that gRPC's TLS (BoringSSL) does not offer."""
CERTIFICATES = "set ETCD_CERT_FILE and ETCD_KEY_FILE (or their like: docs/reference/etcd.md)"
ANSWERS = "it answers now: try again"
NO_TLS = "it speaks no TLS: write http:// instead of https://"


class Route(NamedTuple):
    """One endpoint, and what TLS with it needs."""

    url: str
    tls: Tls
    certificates: Certificates


def explain_all(routes: Sequence[Route], timeout_s: float) -> list[str]:
    """`explain` for each endpoint, side by side."""
    reasons = [""] * len(routes)

    def look(place: int) -> None:
        reasons[place] = explain(routes[place], timeout_s)

    threads = [threading.Thread(target=look, args=(place,), daemon=True) for place in range(len(routes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reasons


def sentence(routes: Sequence[Route], reasons: Sequence[str], source: str) -> str:
    """The error's text: every endpoint, the setting that names it, and what is wrong with it."""
    given = f" ({source})" if source else ""
    clauses = [f"{route.url}{given}: {reason}" for route, reason in zip(routes, reasons, strict=True)]
    return f"cannot reach etcd at {'; '.join(clauses)}"


def explain(route: Route, timeout_s: float) -> str:
    """One clause: what is wrong, and what to do. Blocks for `timeout_s` at each of at most three steps."""
    parts = urlsplit(route.url)
    host = parts.hostname or ""
    try:
        with socket.create_connection((host, parts.port or 443), timeout_s) as plain:
            if parts.scheme == "http":
                return _explain_plain(plain)
            return _explain_tls(plain, host, route)
    except socket.gaierror as error:
        return f"the host's name is not known ({error.strerror}): correct it, or the name service"
    except ConnectionRefusedError:
        return "connection refused: start etcd there, or correct the port"
    except TimeoutError:
        return f"no answer for {timeout_s:g} s: the host is down, or hangs, or a firewall drops the packets"
    except OSError as error:
        return f"{(error.strerror or str(error)).lower()}"


def _explain_plain(connection: socket.socket) -> str:
    connection.sendall(PREFACE)
    answer = connection.recv(64)
    if answer[:1] == bytes((TLS_ALERT,)) or b" 400 " in answer:
        return "it asks for TLS: write https:// instead of http://"
    return _explain_answer(answer) or "it closes the connection: if it asks for TLS, write https:// instead of http://"


def _explain_answer(answer: bytes) -> str:
    if answer[3:4] == bytes((SETTINGS_FRAME,)):
        return ANSWERS
    return f"what answers there is not etcd ({answer[:20]!r})" if answer else ""


def _explain_tls(plain: socket.socket, host: str, route: Route) -> str:
    context = client_context()
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(ssl.SSLError):
        if route.tls.authority:
            context.load_verify_locations(cadata=ascii_of(route.tls.authority))
    if route.tls.certificate and route.tls.key:
        load_pair(context, route.tls.certificate, route.tls.key)
    try:
        secure = context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        return _untrusted(error, route)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError):
        return NO_TLS
    except ssl.SSLError as error:
        return _explain_alert(error, route)
    with secure:
        return _unknown_key(secure) or _explain_secure(secure, route)


def _explain_secure(secure: ssl.SSLSocket, route: Route) -> str:
    """After the handshake: only now does TLS 1.3 say what is wrong with the client's certificate."""
    try:
        secure.sendall(PREFACE)
        return _explain_answer(secure.recv(64)) or _client_refused(route, "it closes the connection")
    except (ssl.SSLError, ConnectionResetError) as error:
        return _client_refused(route, _reason(error))


def _unknown_key(secure: ssl.SSLSocket) -> str:
    certificate = secure.getpeercert(binary_form=True) or b""
    for mark, kind in UNKNOWN_KEYS:
        if mark in certificate:
            return f"its key is of the kind {kind}, which gRPC cannot use: give etcd an RSA, P-256 or P-384 key"
    return ""


def _untrusted(error: ssl.SSLCertVerificationError, route: Route) -> str:
    reason = error.verify_message.rstrip(".")
    if "mismatch" in reason.lower():
        return f"its certificate is for other names ({reason}): use one of those, or give it a certificate for this one"
    if "expired" in reason or "not yet valid" in reason:
        return f"{reason}: renew it, or correct this host's clock"
    authority = route.certificates.authority
    where = str(authority) if authority else "this system's list"
    return (
        f"its certificate is not signed by an authority of {where} ({reason}):"
        " set ETCD_CA_CERT_FILE to the authority that signed it"
    )


def _explain_alert(error: ssl.SSLError, route: Route) -> str:
    reason = _reason(error)
    if "wrong version number" in reason or "http request" in reason:
        return NO_TLS
    return _client_refused(route, reason) if "alert" in reason else f"the TLS handshake fails ({reason})"


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", "") or error.strerror or error).replace("_", " ").lower()


def _client_refused(route: Route, reason: str) -> str:
    if route.certificates.certificate is None:
        return f"it asks for a client's certificate ({reason}): {CERTIFICATES}"
    return (
        f"it does not accept the certificate {route.certificates.certificate} ({reason}):"
        " take one that etcd's trusted authority has signed, and that has not expired"
    )
