"""What the agent's own settings come to, and where each value is said to come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from calico_felix.configuration import AgentConfiguration, settle_etcd, settle_node_name
from calico_felix.main import main
from libcalico.errors import BadData
from libcalico.obs import logs
from libcalico.testing.certificates import Certificates

NO_FILE = {"CALICO_NODENAME_FILE": "/nowhere"}


def configured(**variables: str) -> AgentConfiguration:
    configuration = AgentConfiguration()
    configuration.load_environment({f"FELIX_{name.upper()}": value for name, value in variables.items()}, "FELIX_")
    configuration.resolve()
    return configuration


@pytest.mark.parametrize(
    ("given", "environment", "value", "source"),
    [
        ({"EtcdEndpoints": "http://a:1,http://b:2"}, {}, ("http://a:1", "http://b:2"), "FELIX_ETCDENDPOINTS"),
        (
            {"EtcdEndpoints": "http://a:1"},
            {"CALICO_ETCD_ENDPOINTS": "http://d:4"},
            ("http://a:1",),
            "FELIX_ETCDENDPOINTS",
        ),
        ({"EtcdEndpoints": ""}, {"ETCD_ENDPOINTS": "http://c:3"}, ("http://c:3",), "ETCD_ENDPOINTS"),
        (
            {},
            {"ETCD_ENDPOINTS": "http://c:3", "CALICO_ETCD_ENDPOINTS": "http://d:4"},
            ("http://d:4",),
            "CALICO_ETCD_ENDPOINTS",
        ),
        ({"EtcdAddr": "e:5"}, {"ETCD_ENDPOINTS": "http://c:3"}, ("http://e:5",), "FELIX_ETCDADDR"),
        ({"EtcdAddr": "e:5", "EtcdScheme": "https"}, {}, ("https://e:5",), "FELIX_ETCDADDR"),
        ({}, {"ETCD_AUTHORITY": "e:5", "ETCD_SCHEME": "https"}, ("https://e:5",), "ETCD_AUTHORITY"),
        ({}, {"CALICO_ETCD_AUTHORITY": "e:5"}, ("http://e:5",), "CALICO_ETCD_AUTHORITY"),
        ({"EtcdAddr": "e:5"}, {"ETCD_AUTHORITY": "f:6"}, ("http://e:5",), "FELIX_ETCDADDR"),
        ({}, {}, ("http://127.0.0.1:2379",), "the default: EtcdEndpoints is not set"),
    ],
)
def test_where_etcd_is(given: dict[str, str], environment: dict[str, str], value: tuple[str, ...], source: str) -> None:
    configuration = configured(**given)
    assert settle_etcd(configuration, environment).endpoints == value
    assert configuration.values["EtcdEndpoints"] == (value, source)


def test_the_file_comes_before_the_variables_of_every_client(tmp_path: Path) -> None:
    file = tmp_path / "felix.cfg"
    file.write_text("EtcdEndpoints = http://a:1\n")
    configuration = AgentConfiguration()
    configuration.load_file(str(file))
    configuration.resolve()
    config = settle_etcd(configuration, {"CALICO_ETCD_ENDPOINTS": "http://d:4"}, str(file))
    assert (config.endpoints, config.source) == (("http://a:1",), f"EtcdEndpoints in {file}")


def test_user_and_metadata_of_every_client() -> None:
    environment = {"ETCD_USERNAME": "u", "ETCD_PASSWORD": "p", "ETCD_CUSTOM_GRPC_METADATA": "a:b"}
    config = settle_etcd(configured(), environment)
    assert (config.username, config.password, config.metadata) == ("u", "p", (("a", "b"),))


def test_certificates_of_every_client(certificates: Certificates) -> None:
    configuration = configured()
    settle_etcd(configuration, {"ETCD_CA_CERT_FILE": certificates.ca.certificate})
    assert configuration.values["EtcdCaFile"] == (certificates.ca.certificate, "ETCD_CA_CERT_FILE")
    with pytest.raises(BadData, match=r"KeyFile and CertFile must both be present\[key: , cert: "):
        settle_etcd(configured(), {"ETCD_CERT_FILE": certificates.client.certificate})


def test_a_certificate_that_is_not_there_is_named_with_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR")
    monkeypatch.setattr(logs, "configure", lambda _level: None)
    file = tmp_path / "felix.cfg"
    file.write_text(f"EtcdEndpoints = https://a:1\nEtcdCaFile = {tmp_path}/no.pem\nFelixHostname = n\n")
    assert main(["startup", "-c", str(file)]) == 1
    assert f"open {tmp_path}/no.pem: no such file or directory: EtcdCaFile in {file} names this file" in caplog.text


def test_a_nodename_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="cannot read the file with the node's name"):
        settle_node_name(configured(), {"CALICO_NODENAME_FILE": str(tmp_path)})
    (tmp_path / "nodename").symlink_to("missing")
    with pytest.raises(BadData, match="cannot read the file with the node's name"):
        settle_node_name(configured(), {"CALICO_NODENAME_FILE": str(tmp_path / "nodename")})


def test_the_nodes_name(tmp_path: Path) -> None:
    file = tmp_path / "nodename"
    file.write_text("from-file\n")
    from_file = {"CALICO_NODENAME_FILE": str(file)}
    for given, environment, value, source in (
        ({"FelixHostname": "own"}, {"NODENAME": "n"}, "own", "environment"),
        ({}, {"NODENAME": "n", **from_file}, "n", "environment: NODENAME"),
        ({}, from_file, "from-file", str(file)),
        ({}, {"HOSTNAME": "Host", **NO_FILE}, "host", "host name"),
    ):
        configuration = configured(**given)
        assert settle_node_name(configuration, environment) == value
        assert configuration.values["FelixHostname"] == (value, source)


def test_what_is_settled_stays_and_is_no_change() -> None:
    configuration = configured()
    settle_node_name(configuration, {"NODENAME": "n"})
    settle_etcd(configuration, {"ETCD_ENDPOINTS": "http://c:3"})
    configuration.load_datastore({"VXLANVNI": "5"})
    assert configuration.resolve() == {"VXLANVNI"}
    assert configuration["FelixHostname"] == "n" and configuration["EtcdEndpoints"] == ("http://c:3",)
