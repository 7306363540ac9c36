"""Configuration files that are read without YAML say what YAML reads, or are left to it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libcalico.client import plain_file
from libcalico.errors import BadData
from libcalico.manifest import yaml_input

USUAL = """\
# written by a tool
apiVersion: projectcalico.org/v3
kind: CalicoAPIConfig
metadata:
spec:
  datastoreType: "etcdv3"
  etcdEndpoints: https://10.0.0.1:2379,https://m2.example:2379

  etcdKeyFile: '/etc/calico/key # 1.pem'
  etcdCertFile: /etc/calico/cert.pem
"""
PIECES = (
    "a", "spec", "kind", "b1", "on", "No", "null", "~", "1", "0x1", "1e3", "-", "- ", ":", ": ", "  ", " ", "\n", "\n",
    "\n", '"', "'", "\\", "#", " #", "{", "}", "[", "]", "!!str ", "&x", "*x", "<<", "|", ">", "?", "---", "...", "\t",
    "\r", "é", "http://10.0.0.1:2379", "/etc/x", ",", "%", "@", "`", "=", "+", "\x07", "\x85",
)  # fmt: skip
LINES = (
    "apiVersion: projectcalico.org/v3", "kind: CalicoAPIConfig", "metadata:", "spec:", "  etcdEndpoints: http://a:1",
    "  a:", '  b: "x: y # z"', "  c: 'it'", "# note", "", "  d: /x", "e: yes", "  on: a", "  f: a:", "   g: h",
    "  j: a b", '  k: "', "spec: text", "---", "  l: a#b", "  m: a #b", "  n: -", '  o: "a\\nb"', "  y: y", "  p: .inf",
    "  q:  r", "  s: t ",
)  # fmt: skip
LEFT = (
    "", "---\na: b\n", "a: 1\n", "a: no\n", "a:  b\n", "a: b # c\n", "a:\n   b: c\n", "a: b\n  c: d\n", "a: é\n",
    "a: b:\n", "a: b\na: c\n", '{"a": "b"}', "a:\n  b:\n    c: d\n", 'a: "b\\n"\n', "on: a\n", "a: |\n  b\n",
    "a: b\r\n", "a: it's\n",
)  # fmt: skip


def by_yaml(content: bytes) -> object:
    try:
        return yaml_input.load(yaml_input.decode(content))
    except BadData as error:
        return f"refused: {error}"


def test_the_usual_file_needs_no_yaml() -> None:
    read = plain_file.read(USUAL.encode())
    assert read == by_yaml(USUAL.encode())
    assert read is not None and read["spec"]["etcdKeyFile"] == "/etc/calico/key # 1.pem"


@pytest.mark.parametrize("text", LEFT)
def test_all_else_is_left_to_yaml(text: str) -> None:
    assert plain_file.read(text.encode()) is None


@given(
    st.lists(st.sampled_from(LINES), max_size=8).map("\n".join)
    | st.lists(st.sampled_from(PIECES), max_size=16).map("".join)
)
@example(USUAL)
def test_it_never_reads_anything_else(text: str) -> None:
    read = plain_file.read(text.encode())
    assert read is None or read == by_yaml(text.encode())
