"""A connection file that is wrong says so, naming the file and the member."""

from __future__ import annotations

from pathlib import Path

import pytest

from libcalico.client import connection
from libcalico.datastore.settings import Found, etcd_config
from libcalico.errors import BadData

HEAD = b"apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\n"


def write(folder: Path, content: bytes) -> str:
    """A connection file."""
    path = folder / "calicoctl.cfg"
    path.write_bytes(HEAD + content)
    return str(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"# caf\xe9\n", "line 3: byte 0xe9 is not UTF-8 text"),
        (b"spec: [etcdEndpoints]\n", "spec must be an object"),
        (b"spec: {etcdEndpoints: [http://127.0.0.1:2379]}\n", "etcdEndpoints must be text"),
        (b"spec: {etcdCustomGRPCMetadata: a}\n", "etcdCustomGRPCMetadata must be an object"),
    ],
)
def test_a_file_that_cannot_be_used_is_bad_data_that_names_it(tmp_path: Path, content: bytes, problem: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(BadData, match=f"syntax error in {path}: .*{problem}"):
        connection.load(path, {})


def test_numbers_become_text(tmp_path: Path) -> None:
    path = write(tmp_path, b"spec: {etcdEndpoints: 'http://[::1]:2379', etcdUsername: 7, etcdPassword: 1234}\n")
    config = connection.load(path, {})
    assert (config.username, config.password) == ("7", "1234")


def test_what_yaml_takes_for_other_types_becomes_text_as_go_writes_it(tmp_path: Path) -> None:
    content = b"spec: {etcdEndpoints: 'http://[::1]:2379', etcdUsername: 1.0, etcdPassword: yes,"
    config = connection.load(write(tmp_path, content + b" etcdCustomGRPCMetadata: {a: no, b: 1.50}}\n"), {})
    assert (config.username, config.password) == ("1", "true")
    assert config.metadata == (("a", "false"), ("b", "1.5"))


@pytest.mark.parametrize("text", ["a", "a:b:c", "a:b,c", ""])
def test_metadata_of_the_environment_is_pairs(text: str) -> None:
    environment = {"ETCD_ENDPOINTS": "http://[::1]:2379", "ETCD_CUSTOM_GRPC_METADATA": f"x:y,{text}"}
    with pytest.raises(BadData, match=f'invalid map item: "{text.split(",")[-1]}"'):
        connection.load(connection.DEFAULT_FILE, environment)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"bad key": "v"}, "the name 'bad key' may have letters, digits"),
        ({"": "v"}, "the name '' may have letters"),
        ({"a": "\u00e9"}, "a: the value '\u00e9' may have printable ASCII characters only"),
        ({"a": "x\n"}, r"a: the value 'x\\n' may have printable ASCII"),
    ],
)
def test_metadata_that_grpc_does_not_send_is_refused(metadata: dict[str, str], problem: str) -> None:
    with pytest.raises(BadData, match=f"^etcdCustomGRPCMetadata: {problem}"):
        etcd_config({"etcdEndpoints": Found("http://[::1]:2379", "x"), "etcdCustomGRPCMetadata": Found(metadata, "y")})


def test_a_file_that_is_there_and_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"ETCD_ENDPOINTS": "http://[::1]:2379"}
    monkeypatch.setattr(connection, "DEFAULT_FILE", str(tmp_path / "calicoctl.cfg"))
    assert connection.load(connection.DEFAULT_FILE, environment).endpoints == ("http://[::1]:2379",)
    (tmp_path / "calicoctl.cfg").mkdir()
    with pytest.raises(connection.UnreadableConfig, match=r"^Error reading config file: ") as raised:
        connection.load(connection.DEFAULT_FILE, environment)
    assert "is a directory" in raised.value.__notes__[0]


def test_a_file_is_used_alone_and_named_as_the_source(tmp_path: Path) -> None:
    path = write(tmp_path, b"spec: {etcdEndpoints: 'http://[::1]:2379'}\n")
    config = connection.load(path, {"ETCD_USERNAME": "u", "ETCD_PASSWORD": "p", "CALICO_ETCD_ENDPOINTS": "http://b:1"})
    assert (config.endpoints, config.username) == (("http://[::1]:2379",), "")
    assert config.source == f"etcdEndpoints in {path}"


def test_a_file_without_end_is_an_error() -> None:
    with pytest.raises(connection.UnreadableConfig, match="Error reading config file: /dev/zero") as raised:
        connection.load("/dev/zero", {})
    assert raised.value.__notes__ == ["open /dev/zero: file too large"]


def test_a_default_file_that_is_a_link_to_nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may name another cluster."""
    default = tmp_path / "calicoctl.cfg"
    monkeypatch.setattr(connection, "DEFAULT_FILE", str(default))
    environment = {"ETCD_ENDPOINTS": "http://10.0.0.1:2379"}
    assert connection.load(str(default), environment).endpoints == ("http://10.0.0.1:2379",)
    default.symlink_to("missing")
    with pytest.raises(connection.UnreadableConfig):
        connection.load(str(default), environment)


def test_an_empty_file_has_no_version(tmp_path: Path) -> None:
    path = tmp_path / "calicoctl.cfg"
    path.write_bytes(b"# nothing yet\n")
    with pytest.raises(BadData, match="invalid config file: unknown APIVersion ''"):
        connection.load(str(path), {})
