"""How programs reach an etcd as people have it: far away, with TLS, with users, beside variables for the web."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from calico_felix import main as felix
from calico_felix.startup import sequence
from libcalico.client.blocking import Client
from libcalico.errors import Unreachable
from libcalico.testing.certificates import P256, Certificates
from libcalico.testing.machine import free_port
from tests.etcd.programs import calicoctl, plugin
from tests.etcd.servers import USER, Server, far_away, running, tls_options, tls_server

DEAD = "http://127.0.0.1:9"
EMPTY = "NAME   \n"


def start_up(monkeypatch: pytest.MonkeyPatch, folder: Path, **environment: str) -> int:
    """`calico-felix startup`, which touches nothing of this machine but the folder."""
    monkeypatch.setattr(sequence, "DIRECTORIES", ())
    for name, value in {
        "NODENAME": "n",
        "IP": "10.9.9.9",
        "CALICO_NODENAME_FILE": str(folder / "nodename"),
        **environment,
    }.items():
        monkeypatch.setenv(name, value)
    return felix.main(["startup", "-c", str(folder / "felix.cfg")])


@pytest.mark.parametrize("one_way_s", [0.005, 0.05, 0.1])
def test_far_away_with_tls(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, one_way_s: float
) -> None:
    server = tls_server(tmp_path, certificates)
    with running(server), far_away(server, one_way_s) as url:
        done = calicoctl(url, **certificates.variables())
        assert (done.status, done.errors) == (0, "")
        assert start_up(monkeypatch, tmp_path, ETCD_ENDPOINTS=url, **certificates.variables()) == 0
        deleted = plugin("DEL", {"etcd_endpoints": url}, **certificates.variables())
        assert deleted.status == 0, deleted.output


def test_users_are_known_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(tmp_path)
    with running(server):
        server.ask_for_users()
        assert start_up(monkeypatch, tmp_path, ETCD_ENDPOINTS=server.url, **USER) == 0
        assert calicoctl(server.url, **USER).status == 0
        assert plugin("DEL", {"etcd_endpoints": server.url}, **USER).status == 0
        with Client(environment={"ETCD_ENDPOINTS": server.url, **USER}) as client:
            assert [node.metadata.name for node in client.list("Node")] == ["n"]
        refused = calicoctl(server.url)
        assert refused.status == 1 and "wants ETCD_USERNAME and ETCD_PASSWORD" in refused.errors


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_for_the_web_is_not_used(tmp_path: Path, name: str) -> None:
    server = Server(tmp_path)
    with running(server):
        assert calicoctl(server.url, **{name: DEAD}).status == 0
        assert plugin("DEL", {"etcd_endpoints": server.url}, **{name: DEAD}).status == 0


def test_certificates_that_do_not_belong_together_are_refused_everywhere(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"https://127.0.0.1:{free_port()}"
    unpaired = {"ETCD_CERT_FILE": certificates.client.certificate}
    text = f"KeyFile and CertFile must both be present[key: , cert: {certificates.client.certificate}]"
    done = calicoctl(url, **unpaired)
    whole = f"Failed to create Calico API client: could not initialize etcdv3 client: {text}\n"
    assert (done.status, done.output, done.errors) == (1, whole, "")
    called = plugin("DEL", {"etcd_endpoints": url}, **unpaired)
    shown = json.loads(called.output)
    assert (called.status, shown["code"]) == (1, 999) and text in shown["msg"]
    assert start_up(monkeypatch, tmp_path, ETCD_ENDPOINTS=url, **unpaired) == 1


def test_what_is_wrong_with_tls_is_said_in_words(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(certificates.authority("other").certificate)
    foreign = certificates.sign("foreign", "other")
    other.write_bytes("# Főtanúsítvány\n".encode() + other.read_bytes())
    good = certificates.variables()
    plain, server = Server(tmp_path, "plain"), tls_server(tmp_path, certificates)
    monkeypatch.setattr("libcalico.datastore.etcd.CONNECT_TIMEOUT_S", 1.0)
    cases = [
        (server.url, {**good, "ETCD_CA_CERT_FILE": str(certificates.folder / "other.crt")},
         r"is not signed by an authority of \S*other.crt \(ETCD_CA_CERT_FILE\) .*: set ETCD_CA_CERT_FILE to"),
        (server.url, {**good, "ETCD_CA_CERT_FILE": ""}, "not signed by an authority of this system's list"),
        (server.url, {"ETCD_CA_CERT_FILE": good["ETCD_CA_CERT_FILE"]}, "asks for a client's certificate .*: set ETCD"),
        (server.url, {**good, "ETCD_CERT_FILE": foreign.certificate, "ETCD_KEY_FILE": foreign.key},
         r"does not accept the certificate \S*foreign.crt \(ETCD_CERT_FILE\)"),
        (server.url.replace("https", "http"), {}, "write https:// instead of http://"),
        (plain.url.replace("http", "https"), {}, "write http:// instead of https://"),
        (server.url.replace("127.0.0.1", "localhost"), good, "its certificate is for other names"),
        ("http://nowhere.invalid:2379", {}, "the host's name is not known"),
    ]  # fmt: skip
    with running(plain, server):
        for url, environment, reason in cases:
            whole = rf"^cannot reach etcd at {re.escape(url)} \(ETCD_ENDPOINTS\): .*{reason}"
            settings = {"ETCD_ENDPOINTS": url, **environment}
            with Client(environment=settings) as client, pytest.raises(Unreachable, match=whole):
                client.list("Node")


@pytest.mark.parametrize(("kind", "name"), [("ed25519", "Ed25519"), ("EC -pkeyopt ec_paramgen_curve:P-521", "P-521")])
def test_a_key_that_grpc_does_not_have(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.setattr("libcalico.datastore.etcd.CONNECT_TIMEOUT_S", 1.0)
    server = tls_server(tmp_path, certificates, certificates.sign("server", kind=kind))
    settings = {"ETCD_ENDPOINTS": server.url, **certificates.variables()}
    reason = f"its key is of the kind {name}, .* give etcd an RSA, P-256 or P-384 key"
    with running(server), Client(environment=settings) as client, pytest.raises(Unreachable, match=reason):
        client.list("Node")


@pytest.mark.parametrize("kind", ["RSA", "EC -pkeyopt ec_paramgen_curve:P-384", P256])
def test_the_systems_authorities_count(tmp_path: Path, certificates: Certificates, kind: str) -> None:
    pair = certificates.sign("server", kind=kind)
    server = Server(tmp_path, options=tls_options(pair), scheme="https")
    with running(server):
        done = calicoctl(server.url, SSL_CERT_FILE=certificates.ca.certificate)
        assert (done.status, done.errors) == (0, "")


def test_an_etcd_that_is_away_is_waited_for_once(tmp_path: Path) -> None:
    """Ten seconds, for a person three; then one line that names it. gRPC says nothing of its own."""
    server = Server(tmp_path)
    done = calicoctl(server.url)
    line = (
        f"cannot reach etcd at {server.url} (ETCD_ENDPOINTS): connection refused: start etcd there, or correct the port"
    )
    assert (done.status, done.output, done.errors) == (1, "", f"{line}\n")
    assert 3 < done.took_s < 7
    called = plugin("DEL", {"etcd_endpoints": server.url})
    shown = json.loads(called.output)
    assert (shown["code"], server.url in shown["msg"]) == (11, True), shown
    assert 10 < called.took_s < 19  # twice would take 20


def test_a_configuration_that_is_there_and_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "felix.cfg").mkdir()
    assert start_up(monkeypatch, tmp_path, ETCD_ENDPOINTS="http://127.0.0.1:1") == 1
