"""Certificates and keys for TLS with etcd: read, and checked before gRPC sees them (which would abort the process).

A certificate and its key are given together; what is wrong with one of them is said in words, naming the file. Without
an authority the system's store counts, as for other programs: SSL_CERT_FILE, SSL_CERT_DIR, else the distribution's
bundle. Source: spec/datastore.md 9.1.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from libcalico.errors import BadData
from libcalico.files import read_regular, read_small

if TYPE_CHECKING:
    import ssl

BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep the authorities that they trust."""
CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
KEY = b"PRIVATE KEY-----"
ENCRYPTED = (b"ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some editors write before a text, and gRPC does not pass over."""
FAILED = "could not initialize etcdv3 client"


class Pem(NamedTuple):
    """A certificate or key: a file, which may be renewed, or the text itself. `source` is the setting that gave it."""

    source: str
    path: str = ""
    text: bytes = b""

    def __str__(self) -> str:
        return f"{self.path} ({self.source})" if self.path else self.source


class Certificates(NamedTuple):
    """What TLS with etcd needs, as the settings name it."""

    authority: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = None


class Tls(NamedTuple):
    """What gRPC wants: PEM bytes that belong together. `authority` None: gRPC's own list of authorities."""

    authority: bytes | None
    certificate: bytes | None
    key: bytes | None


def read_tls(wanted: Certificates) -> Tls:
    """Read and check all of it. Raises `BadData` naming the file and what is wrong with it."""
    authority, certificate, key = (None if pem is None else _content(pem) for pem in wanted)
    if (wanted.certificate is None) != (wanted.key is None):
        raise _unpaired(wanted)
    if wanted.authority is not None and authority is not None:
        _check_authority(wanted.authority, authority)
    if wanted.certificate is not None and wanted.key is not None:
        _check_pair(wanted.certificate, certificate or b"", wanted.key, key or b"")
    return Tls(authority or None, certificate or None, key or None)


def with_system_store(tls: Tls) -> Tls:
    """The same, trusting what the system trusts when no authority is given."""
    return tls if tls.authority else tls._replace(authority=system_store())


def stamp(wanted: Certificates) -> tuple[object, ...]:
    """Something that changes when one of the files does: renewed ones are read again."""
    stamps: list[object] = []
    for pem in wanted:
        try:
            state = os.stat(pem.path) if pem is not None and pem.path else None
        except OSError:
            state = None
        stamps.append(state and (state.st_mtime_ns, state.st_ino, state.st_size))
    return tuple(stamps)


def system_store() -> bytes | None:
    """The authorities that this system trusts, None when it has no list. Raises `BadData` for a bad SSL_CERT_FILE."""
    found = b""
    if given := os.environ.get("SSL_CERT_FILE"):
        pem = Pem("SSL_CERT_FILE", given)
        found = _content(pem)
        _check_authority(pem, found)
    for folder in filter(None, os.environ.get("SSL_CERT_DIR", "").split(":")):
        found += b"\n".join(_certificates_in(folder))
    if found:
        return found
    bundle = next((path for path in BUNDLES if os.access(path, os.R_OK)), None)
    return read_regular(bundle) if bundle else None


def _certificates_in(folder: str) -> Iterator[bytes]:
    """The files of a folder that hold certificates; what cannot be read counts for nothing, as for OpenSSL."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                content = read_small(path) if os.path.isfile(path) else b""
                if CERTIFICATE in content:
                    yield content


def _content(pem: Pem) -> bytes:
    if not pem.path:
        return pem.text
    try:
        return read_regular(pem.path).removeprefix(BYTE_ORDER_MARK)
    except OSError as error:
        problem = BadData(f"{FAILED}: open {pem.path}: {(error.strerror or str(error)).lower()}")
        problem.add_note(f"{pem.source} names this file")
        raise problem from None


def _unpaired(wanted: Certificates) -> BadData:
    """Upstream's sentence; the note says which setting is missing."""
    certificate, key = wanted.certificate, wanted.key
    paths = f"[key: {key.path if key else ''}, cert: {certificate.path if certificate else ''}]"
    error = BadData(f"{FAILED}: KeyFile and CertFile must both be present{paths}")
    given = certificate or key
    assert given is not None
    error.add_note(f"{given.source} is given: set the {'key' if key is None else 'certificate'} that goes with it too")
    return error


def _check_authority(pem: Pem, text: bytes) -> None:
    import ssl

    if CERTIFICATE not in text:
        raise BadData(f"{FAILED}: {pem} holds no certificate authority: {_what_it_is(text)}")
    try:
        client_context().load_verify_locations(cadata=ascii_of(text))
    except (ssl.SSLError, ValueError) as error:
        raise BadData(f"{FAILED}: {pem} holds a certificate that cannot be read: {_reason(error)}") from None


def _check_pair(certificate_pem: Pem, certificate: bytes, key_pem: Pem, key: bytes) -> None:
    if CERTIFICATE not in certificate:
        raise BadData(f"{FAILED}: {certificate_pem} holds no certificate: {_what_it_is(certificate)}")
    if KEY not in key:
        raise BadData(f"{FAILED}: {key_pem} holds no private key: {_what_it_is(key)}")
    if any(mark in key for mark in ENCRYPTED):
        raise BadData(f"{FAILED}: the key {key_pem} is encrypted: give it without a passphrase")
    _check_belong(certificate_pem, certificate, key_pem, key)


def _check_belong(certificate_pem: Pem, certificate: bytes, key_pem: Pem, key: bytes) -> None:
    import ssl

    context = client_context()
    try:
        load_pair(context, certificate, key)
    except (ssl.SSLError, ValueError) as error:
        if "MISMATCH" in str(error):
            text = f"the key {key_pem} does not belong to the certificate {certificate_pem}"
            raise BadData(f"{FAILED}: {text}") from None
        try:
            context.load_verify_locations(cadata=ascii_of(certificate))
        except (ssl.SSLError, ValueError):
            raise BadData(f"{FAILED}: the certificate {certificate_pem} cannot be read: {_reason(error)}") from None
        raise BadData(f"{FAILED}: the key {key_pem} cannot be read: {_reason(error)}") from None


def client_context() -> ssl.SSLContext:
    """For trying things out: as tolerant of short keys as gRPC and etcd are, whatever this system's OpenSSL wants."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def http_context(tls: Tls) -> ssl.SSLContext:
    """For HTTP/1.1 with etcd. Raises `BadData` for authorities of the system that cannot be read."""
    import ssl

    context = client_context()
    context.set_alpn_protocols(["http/1.1"])
    try:
        if tls.authority:
            context.load_verify_locations(cadata=ascii_of(tls.authority))
        else:
            context.load_default_certs()
    except (ssl.SSLError, ValueError) as error:
        raise BadData(f"{FAILED}: the system's authorities cannot be read: {_reason(error)}") from None
    if tls.certificate and tls.key:
        load_pair(context, tls.certificate, tls.key)
    return context


def load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Give a context a certificate and key from memory (the module `ssl` takes file names only)."""
    descriptors = []
    try:
        for text in (certificate, key):
            descriptors.append(os.memfd_create("pem"))
            os.write(descriptors[-1], text)
        paths = [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]
        context.load_cert_chain(paths[0], paths[1], password=lambda: b"")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def ascii_of(text: bytes) -> str:
    """PEM for the module `ssl`, which takes ASCII only: names of authorities beside the certificates have accents."""
    return text.decode("ascii", "ignore")


def _what_it_is(text: bytes) -> str:
    if not text.strip():
        return "it is empty"
    if KEY in text:
        return "it is a private key"
    if CERTIFICATE in text:
        return "it is a certificate"
    if text[:1] == b"\x30":
        return "it is DER: convert it to PEM (openssl x509 or pkey, -inform DER)"
    return "it is not PEM (a text with -----BEGIN ...-----)"


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", "") or error).replace("_", " ").lower().split())
