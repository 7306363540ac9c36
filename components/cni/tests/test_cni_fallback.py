"""The fallback's own parts: flags, where it finds the datastore, logging. What it does is tested in tests/netns."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from calico_cni import logs, main
from calico_cni.host import etcd_settings
from libcalico.cni.conf import read_conf
from libcalico.errors import BadData
from libcalico.workload.host import EtcdMembers


def members(conf: dict[str, Any]) -> EtcdMembers:
    """As a lenient call reads them: a DEL passes over what it does not need."""
    found, _ = read_conf(conf, lenient=True)
    return EtcdMembers(found.etcd, found.etcd_problem)


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """The tests' own handlers come back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("program", ["calico", "calico-ipam"])
def test_version_flag(program: str) -> None:
    assert main.answer(program, ["-v"], {}, b"").stdout == b"0.1.0\n"


@pytest.mark.parametrize("arguments", [["-x"], ["-upgrade"], ["-v", "-v"]])
def test_bad_flags_are_code_100(arguments: list[str]) -> None:
    found = main.answer("calico", arguments, {}, b"")
    assert (found.exit_code, json.loads(found.stdout)["code"]) == (1, 100)


def test_a_datastore_test_without_a_datastore_is_code_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "TEST_TIMEOUT_S", 0.2)
    stdin = json.dumps({"name": "x", "etcd_endpoints": "http://127.0.0.1:1"}).encode()
    found = main.answer("calico", ["-t"], {}, stdin)
    shown = json.loads(found.stdout)
    assert (found.exit_code, shown["code"], shown["msg"]) == (1, 100, "data store connection failed")


@pytest.mark.parametrize(
    ("conf", "environment", "endpoints", "source"),
    [
        ({"etcd_endpoints": "http://a:1"}, {"ETCD_ENDPOINTS": "http://b:1"}, "http://a:1", "etcd_endpoints of"),
        ({"etcd_endpoints": "http://a:1"}, {"CALICO_ETCD_ENDPOINTS": "http://c:1"}, "http://c:1", "CALICO_ETCD_"),
        ({}, {"ETCD_ENDPOINTS": "http://b:1", "CALICO_ETCD_ENDPOINTS": "http://c:1"}, "http://c:1", "CALICO_ETCD_"),
        ({"etcd_endpoints": "a:1"}, {}, "http://a:1", "etcd_endpoints of"),
        ({"etcd_endpoints": "a:1", "etcd_scheme": "https"}, {}, "https://a:1", "etcd_endpoints of"),
        ({"etcd_authority": "a:1"}, {}, "http://a:1", "etcd_authority of"),
        ({"etcd_authority": "a:1", "etcd_scheme": "https"}, {}, "https://a:1", "etcd_authority of"),
    ],
)
def test_where_the_datastore_is(conf: dict[str, Any], environment: dict[str, str], endpoints: str, source: str) -> None:
    config = etcd_settings(members(conf), environment)
    assert config.endpoints == (endpoints,) and config.source.startswith(source)


@pytest.mark.parametrize("name", ["etcd_endpoints", "etcd_ca_cert_file", "datastore_type"])
def test_a_damaged_configuration_never_means_another_cluster(name: str) -> None:
    """Not for a DEL either, which passes over what it does not need."""
    with pytest.raises(BadData, match=f"{name} is 7, wanted string"):
        etcd_settings(members({name: 7}), {"ETCD_ENDPOINTS": "http://b:1"})


def test_user_and_certificates_come_from_the_environment_too() -> None:
    environment = {"ETCD_USERNAME": "calico", "CALICO_ETCD_PASSWORD": "s3cret", "ETCD_CERT_FILE": "/x.pem"}
    etcd = members({"etcd_endpoints": "http://a:1"})
    with pytest.raises(BadData, match=r"open /x\.pem: no such file"):
        etcd_settings(etcd, environment)
    del environment["ETCD_CERT_FILE"]
    config = etcd_settings(etcd, environment)
    assert (config.username, config.password) == ("calico", "s3cret")


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b'{"log_level": 5, "log_file_path": 7}'])
def test_logging_survives_any_configuration(stdin: bytes) -> None:
    logs.configure(stdin)
    assert logging.getLogger().level == logging.INFO
