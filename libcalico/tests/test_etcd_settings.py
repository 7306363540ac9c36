"""How etcd is reached, as the settings say: order, sources, what is refused and how."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import dns.resolver
import pytest

from libcalico.datastore import certificates as pems
from libcalico.datastore.certificates import Certificates as Wanted
from libcalico.datastore.certificates import Pem
from libcalico.datastore.settings import (
    SETTINGS,
    Found,
    etcd_config,
    first_of,
    from_environment,
    from_network,
    name_of,
)
from libcalico.errors import BadData, DatastoreError
from libcalico.testing.certificates import Certificates

URL = {"etcdEndpoints": Found("http://10.0.0.1:2379", "ETCD_ENDPOINTS")}


def test_every_variable_has_a_form_with_calico_that_wins() -> None:
    variables = {name_of(one): one.variable for one in SETTINGS if one.variable}
    plain = {variable: f"plain {variable}" for variable in variables.values()}
    prefixed = {f"CALICO_{variable}": f"prefixed {variable}" for variable in variables.values()}
    found = from_environment({**plain, **prefixed})
    assert found == {name: Found(f"prefixed {v}", f"CALICO_{v}") for name, v in variables.items()}
    assert from_environment(plain) == {name: Found(f"plain {v}", v) for name, v in variables.items()}
    for blank in ("", " \t"):
        emptied = dict.fromkeys(prefixed, blank)
        assert from_environment({**plain, **emptied}) == from_environment(plain)


def test_a_network_configuration_is_named_as_the_source() -> None:
    found = from_network({"etcd_endpoints": "http://a:1", "etcd_key_file": " ", "name": "net"})
    assert found == {"etcdEndpoints": Found("http://a:1", "etcd_endpoints of the network configuration")}


def test_an_empty_value_counts_as_none() -> None:
    assert first_of({"etcdKeyFile": Found("", "a")}, {"etcdKeyFile": Found("k", "b")})["etcdKeyFile"].source == "b"


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("http://a:1,https://b:2/", ("http://a:1", "https://b:2")),
        (" a:1 , ,[::1]:2 ", ("http://a:1", "http://[::1]:2")),
        ("https://etcd.example", ("https://etcd.example",)),
        ("HTTP://A:1,Https://B:2", ("http://A:1", "https://B:2")),
    ],
)
def test_endpoints(text: str, endpoints: tuple[str, ...]) -> None:
    assert etcd_config({"etcdEndpoints": Found(text, "x")}).endpoints == endpoints


@pytest.mark.parametrize(
    "text",
    ["htp://a:1", "http://", "http://a", "http://a:0", "http://a:70000", "http://u@a:1", "http://a:1/b", "a:1?x=y"],
)
def test_what_is_no_url_is_refused_with_its_source(text: str) -> None:
    with pytest.raises(BadData) as raised:
        etcd_config({"etcdEndpoints": Found(text, "ETCD_ENDPOINTS")})
    assert str(raised.value) == f"ETCD_ENDPOINTS: '{text}' is not a URL of etcd such as http://10.0.0.1:2379"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "no etcd endpoints specified"),
        ({**URL, "etcdDiscoverySrv": Found("d", "y")}, "multiple discovery or bootstrap options specified"),
        ({**URL, "datastoreType": Found("kubernetes", "DATASTORE_TYPE")}, r"use etcdv3 \(DATASTORE_TYPE\)"),
        ({**URL, "etcdCert": Found("x", "a"), "etcdCACertFile": Found("/y", "b")}, "Cannot mix inline certificate-key"),
        ({"etcdEndpoints": Found("a:1", "x"), "EtcdScheme": Found("ftp", "ETCD_SCHEME")}, "ETCD_SCHEME: 'ftp' is not"),
    ],
)
def test_what_cannot_be_used(settings: dict[str, Found], problem: str) -> None:
    with pytest.raises(BadData, match=problem):
        etcd_config(settings)


def test_user_and_password_count_together_only() -> None:
    alone = etcd_config({**URL, "etcdUsername": Found("u", "x")})
    assert (alone.username, alone.password) == ("", "")


@dataclasses.dataclass
class Record:
    """An SRV record."""

    target: str
    port: int
    priority: int = 0
    weight: int = 0


def test_a_domain_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = {
        "_etcd-client-ssl._tcp.example": [
            Record("b.example.", 2, 1),
            Record("a.example.", 1),
            Record("c.example.", 3, 0, 5),
        ]
    }

    def resolve(name: str, kind: str, lifetime: float) -> Any:
        if name not in zone:
            raise dns.resolver.NXDOMAIN
        return zone[name]

    monkeypatch.setattr(dns.resolver, "resolve", resolve)
    config = etcd_config({"etcdDiscoverySrv": Found("example", "ETCD_DISCOVERY_SRV")})
    assert config.endpoints == ("https://c.example:3", "https://a.example:1", "https://b.example:2")
    with pytest.raises(BadData, match="ETCD_DISCOVERY_SRV: there is no SRV record"):
        etcd_config({"etcdDiscoverySrv": Found("other", "ETCD_DISCOVERY_SRV")})


def test_a_silent_name_server_is_no_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        raise dns.resolver.NoNameservers

    monkeypatch.setattr(dns.resolver, "resolve", resolve)
    with pytest.raises(DatastoreError, match=r"cannot look up _etcd-client-ssl._tcp.example \(ETCD_DISCOVERY_SRV\)"):
        etcd_config({"etcdDiscoverySrv": Found("example", "ETCD_DISCOVERY_SRV")})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ETCD_KEY_FILE": ""}, r"KeyFile and CertFile must both be present\[key: , cert: /.*client.crt\]$"),
        ({"ETCD_CERT_FILE": ""}, r"KeyFile and CertFile must both be present\[key: /.*client.key, cert: \]$"),
        ({"ETCD_CERT_FILE": "client.key"}, r"client.key \(ETCD_CERT_FILE\) holds no certificate: it is a private key"),
        ({"ETCD_KEY_FILE": "client.crt"}, r"client.crt \(ETCD_KEY_FILE\) holds no private key: it is a certificate"),
        ({"ETCD_KEY_FILE": "server.key"}, r"the key .*server.key .* does not belong to the certificate .*client.crt"),
        ({"ETCD_KEY_FILE": "broken.key"}, r"the key .*broken.key \(ETCD_KEY_FILE\) cannot be read"),
        ({"ETCD_CERT_FILE": "broken.crt"}, r"the certificate .*broken.crt \(ETCD_CERT_FILE\) cannot be read"),
        ({"ETCD_KEY_FILE": "locked.key"}, r"locked.key \(ETCD_KEY_FILE\) is encrypted: give it without a passphrase"),
        ({"ETCD_CERT_FILE": "empty"}, r"empty \(ETCD_CERT_FILE\) holds no certificate: it is empty"),
        ({"ETCD_CERT_FILE": "der"}, r"der \(ETCD_CERT_FILE\) holds no certificate: it is DER: convert it"),
        ({"ETCD_CA_CERT_FILE": "client.key"}, r"\(ETCD_CA_CERT_FILE\) holds no certificate authority: it is a private"),
        ({"ETCD_CA_CERT_FILE": "broken.crt"}, r"\(ETCD_CA_CERT_FILE\) holds a certificate that cannot be read"),
        ({"ETCD_CA_CERT_FILE": "pipe"}, r"open /.*pipe: this is no file$"),
        ({"ETCD_CA_CERT_FILE": "nowhere"}, r"open /.*nowhere: no such file or directory$"),
    ],
)
def test_a_certificate_or_key_that_is_wrong_is_named(
    certificates: Certificates, changes: dict[str, str], problem: str
) -> None:
    folder = certificates.folder
    (folder / "broken.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (folder / "broken.key").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (folder / "locked.key").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    (folder / "empty").write_bytes(b"")
    os.mkfifo(folder / "pipe")
    (folder / "der").write_bytes(b"\x30\x82\x01")
    paths = {name: str(folder / file) if file else "" for name, file in changes.items()}
    environment = {"ETCD_ENDPOINTS": "https://[::1]:2379", **certificates.variables(), **paths}
    with pytest.raises(BadData) as raised:
        etcd_config(from_environment(environment))
    assert re.search(f"^could not initialize etcdv3 client: .*{problem}", str(raised.value))


def test_inline_certificates_are_checked_too(certificates: Certificates) -> None:
    with open(certificates.client.certificate) as file:
        settings = {**URL, "etcdCert": Found(file.read(), "etcdCert in /x.cfg")}
    with pytest.raises(BadData, match="must both be present") as raised:
        etcd_config(settings)
    assert raised.value.__notes__ == ["etcdCert in /x.cfg is given: set the key that goes with it too"]


def test_keys_of_other_kinds_are_taken(certificates: Certificates) -> None:
    for kind in ("ed25519", "EC -pkeyopt ec_paramgen_curve:P-521", "RSA"):
        pair = certificates.sign("other", kind=kind)
        wanted = Wanted(certificate=Pem("a", pair.certificate), key=Pem("b", pair.key))
        assert pems.read_tls(wanted).key


def test_names_beside_the_certificates_may_have_accents(certificates: Certificates) -> None:
    """As those of distributions' lists of authorities do."""
    for pair in (certificates.ca, certificates.client):
        for path in map(Path, pair):
            path.write_bytes("# Főtanúsítvány\n".encode() + path.read_bytes() + b"\xff\n")
    wanted = Wanted(Pem("a", certificates.ca.certificate), *(Pem("b", path) for path in certificates.client))
    assert pems.read_tls(wanted).authority == Path(certificates.ca.certificate).read_bytes()
    Path(certificates.client.certificate).write_bytes("ő".encode() + pems.CERTIFICATE)
    with pytest.raises(BadData, match=r"client.crt \(b\) cannot be read"):
        pems.read_tls(wanted)


def test_without_an_authority_the_system_counts(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = open(certificates.ca.certificate, "rb").read()  # noqa: SIM115
    monkeypatch.setattr(pems, "BUNDLES", ("/nowhere", certificates.ca.certificate))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert pems.system_store() == authority
    monkeypatch.setattr(pems, "BUNDLES", ())
    assert pems.system_store() is None
    monkeypatch.setenv("SSL_CERT_DIR", f"/nowhere:{certificates.folder}")
    assert authority in (pems.system_store() or b"")
    monkeypatch.setenv("SSL_CERT_FILE", certificates.client.key)
    with pytest.raises(BadData, match=r"\(SSL_CERT_FILE\) holds no certificate authority"):
        pems.system_store()
    monkeypatch.setenv("SSL_CERT_FILE", "")
    given = pems.Tls(b"given", None, None)
    assert pems.with_system_store(given) is given


def test_a_stamp_changes_with_a_file(certificates: Certificates) -> None:
    wanted = Wanted(authority=Pem("x", certificates.ca.certificate))
    before = pems.stamp(wanted)
    assert before == pems.stamp(wanted)
    certificates.authority("ca")
    assert before != pems.stamp(wanted)


def test_authorities_of_a_folder_that_has_other_things_too(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = certificates.folder / "authorities"
    (folder / "more").mkdir(parents=True)
    (folder / "junk").write_bytes(b"\xff\x00")
    (folder / "gone").symlink_to("missing")
    (folder / "endless").symlink_to("/dev/zero")
    content = Path(certificates.ca.certificate).read_bytes()
    (folder / "ours.pem").write_bytes(content)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", f"{certificates.folder}/missing:{folder}")
    assert pems.system_store() == content


def test_files_as_editors_and_old_authorities_leave_them(certificates: Certificates) -> None:
    """A byte order mark is no part of them; a short key is for etcd to judge."""
    pair = certificates.sign("short", kind="RSA -pkeyopt rsa_keygen_bits:1024")
    authority = Path(certificates.ca.certificate)
    content = authority.read_bytes()
    authority.write_bytes(b"\xef\xbb\xbf" + content)
    wanted = Wanted(Pem("a", str(authority)), Pem("c", pair.certificate), Pem("k", pair.key))
    assert pems.read_tls(wanted).authority == content
