"""Diagnostics: no secret in any form, bounds, and what is said to be wrong."""

from __future__ import annotations

import base64
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calicoctl.diags import bundle, collect, findings
from calicoctl.diags.collect import Item, Wanted
from calicoctl.diags.findings import Finding
from calicoctl.diags.secrets import Secrets, is_secret_name
from libcalico.bird.replies import Protocol
from libcalico.datastore.health import MemberHealth

SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp")), min_size=6, max_size=40)


def coded(secret: bytes) -> list[bytes]:
    """How a secret may stand in a text."""
    found = [secret, secret.hex().encode(), quote(secret, safe="").encode()]
    return [*found, base64.b64encode(secret), base64.urlsafe_b64encode(b"x" + secret), base64.b64encode(b"ab" + secret)]


@given(SECRETS, st.binary(max_size=20), st.binary(max_size=20))
def test_a_known_secret_is_nowhere(secret: str, before: bytes, after: bytes) -> None:
    raw = secret.encode()
    secrets = Secrets()
    secrets.learn(raw)
    for form in coded(raw):
        assert form not in secrets.clean(before + form + after).replace(b"<secret>", b"")


@pytest.mark.parametrize(
    "text",
    [
        "ETCD_PASSWORD=hunter22\n", 'password "hunter22";', '{"password":"hunter22","x":1}', "password: hunter22",
        "http://root:hunter22@10.0.0.1:2379", "etcdctl --user root:hunter22 get", "calico --password hunter22 -v",
        "Authorization: Bearer hunter22", "authorization:token=hunter22,a:b", "  etcdPassword: 'hunter22'",
        "clientSecret=hunter22", '{"a":"b","apiKey": "hunter22"}', "x-token: hunter22",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter22\n-----END RSA PRIVATE KEY-----",
        '{"token":"a1","password":"hunter22"}', "-----BEGIN PRIVATE KEY-----\nhunter22",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_replaced_where_it_stands(text: str) -> None:
    secrets = Secrets()
    assert b"hunter22" not in secrets.clean(text.encode())
    assert secrets.replaced


@pytest.mark.parametrize(
    "text",
    [
        "the token of this node is fine", "secretKeyRef: {name: s, key: k}", "etcdKeyFile: /etc/calico/key.pem",
        '{"secretKeyRef":{"name":"s","key":"k"}}', "password: null", "10.0.0.1 dev eth0 lladdr 02:42:ac:11:00:02",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "http://10.0.0.1:2379",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert Secrets().clean(text.encode()) == text.encode()


def test_what_one_file_tells_is_replaced_in_every_other() -> None:
    secrets = Secrets()
    secrets.learn_object(
        [{"spec": {"password": "plain-one"}, "metadata": {"annotations": {"a": '{"token": "in-json"}'}}}]
    )
    secrets.learn_text(b"ETCD_PASSWORD=with blank in it\nOTHER=1\n")
    log = secrets.clean(b"tried plain-one, in-json, and 'with blank in it'")
    assert log == b"tried <secret>, <secret>, and '<secret>'"


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [("ETCD_PASSWORD", True), ("api_key", True), ("MY_KEY", True), ("ETCD_KEY_FILE", False), ("NODENAME", False),
     ("secretName", False), ("GITHUB_TOKEN", True), ("MONKEY", False)],
)  # fmt: skip
def test_names(name: str, is_secret: bool) -> None:
    assert is_secret_name(name) is is_secret


async def test_what_hangs_is_missing_fails_or_never_ends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "ITEM_S", 0.5)
    monkeypatch.setattr(collect, "LARGEST", 10_000)
    items = await collect.collect([
        Wanted("hangs", "x", ("sh", "-c", "echo begun; sleep 60 & sleep 60")),
        Wanted("fails", "x", ("sh", "-c", "echo no >&2; exit 3")),
        Wanted("missing", "x", ("no-such-program-here",)), Wanted("endless", "x", ("yes", "123456789")),
        Wanted("well", "x", ("echo", "well")), Wanted("file", "x", ask=collect.read_file(Path("/nowhere"))),
    ])  # fmt: skip
    found = {one.file: (one.content, one.problem) for one in items}
    assert found["hangs"] == (b"begun\n", "not finished within 0 s")
    assert found["fails"] == (b"\nno\n", "exit status 3")
    assert found["missing"] == (b"", "the program no-such-program-here is not installed")
    assert found["endless"] == (b"123456789\n" * 999 + b"123456789\n", "cut: only the first 10000 octets")
    assert found["well"] == (b"well\n", "")
    assert "no such file" in found["file"][1]


async def test_what_is_not_there_in_time_is_given_up() -> None:
    items = await collect.collect([Wanted("hangs", "x", ("sleep", "60"))], all_s=0.3)
    assert items == [Item("hangs", "x", b"", "not finished within 0 s for everything")]


def test_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LARGEST_ALL", 100)
    secrets = Secrets()
    secrets.learn(b"hunter22")
    items = [
        Item("a", "the first", b"x hunter22 y\n"),
        Item("b", "the second", b"", "no hunter22 here"),
        Item("c", "big", b"z" * 200),
    ]
    path = tmp_path / "d.tar.gz"
    bundle.write(path, "Title", [Finding("etcd hunter22 is down", "a")], items, secrets, 1.0)
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        texts = {one.name: archive.extractfile(one).read().decode() for one in archive}  # type: ignore[union-attr]
    assert texts["diagnostics/a"] == "x <secret> y\n" and texts["diagnostics/c"] == ""
    page = texts["diagnostics/index.md"]
    assert "- etcd <secret> is down (see `a`)" in page
    assert "- `b`, the second: no <secret> here" in page
    assert "- `c`, big: left out: the archive is large enough" in page
    assert "| `a` | the first | 13 |" in page


def said(found: object) -> list[str]:
    return [one.text for one in found]  # type: ignore[attr-defined]


def test_what_is_wrong_with_the_agent_and_bird() -> None:
    assert said(findings.agent(False, {}, "no agent answers")) == [
        "the agent (calico-felix) does not run: nothing new is programmed on this host"
    ]
    assert said(findings.agent(True, {}, "it hangs")) == ["the agent runs and does not answer: it hangs"]
    gone = {"connected": False, "in_sync": False, "reason": "etcd is away"}
    assert said(findings.agent(True, gone, "")) == ["the agent is not connected to etcd: etcd is away"]
    well = {"connected": True, "in_sync": True, "datastore_revision": 9, "programmed_revision": 9}
    assert not said(findings.agent(True, well, ""))
    assert said(findings.agent(True, {**well, "programmed_revision": 7}, ""))[0].startswith("the kernel is 2 revisions")
    rows = [
        Protocol("Mesh_10_0_5_21", "BGP", "---", "up", "1", "Established"),
        Protocol("Node_10_0_5_22", "BGP", "---", "start", "05:13", "Active    Socket: No route to host"),
    ]
    assert said(findings.sessions(rows, "", True, True)) == [
        "the BGP session with 10.0.5.22 is down since 05:13: Active Socket: No route to host"
    ]
    assert said(findings.sessions([], "no BIRD", False, True)) == [
        "BIRD does not run, although this host has a configuration for it"
    ]
    assert not said(findings.sessions([], "no BIRD", False, False))
    assert said(findings.lines("nothing\n", "f", "it says")) == []
    assert len(said(findings.lines("x\n" * 30, "f", "it says"))) == findings.MOST_NAMED + 1
    units = "● calico-felix.service loaded failed failed Felix\ncalico-x.service loaded active running X\n"
    assert said(findings.failed_units(units)) == ["the unit calico-felix.service has failed"]


def test_what_is_wrong_with_etcd_and_clocks() -> None:
    members = [
        MemberHealth("http://a", "connection refused"), MemberHealth("http://b", "", clock_s=1000.0),
        MemberHealth("http://c", "", clock_s=1100.0),
    ]  # fmt: skip
    assert said(findings.etcd(members, 1001.0)) == [
        "the etcd member at http://a cannot be used: connection refused",
        "this host's clock is 99 s behind that of etcd at http://c",
    ]
    seen = {"n1": 1000.0, "n2": 1060.0, "n3": 800.0}
    assert said(findings.heartbeats(["n1", "n2", "n3", "n4"], seen, 1010.0, 90.0)) == [
        "the clock of node n2 is 50 s ahead of this one",
        "the clock of node n3 is about 210 s behind this one",
        "the agent of node n4 has not reported for a while: it, or its way to etcd, is down",
    ]


def test_what_is_wrong_with_objects() -> None:
    pool = {"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/8", "vxlanMode": "Always"}}
    assert said(findings.devices([pool], ["eth0"])) == [
        "the pool p has vxlanMode Always, and the device vxlan.calico is missing"
    ]
    assert not said(findings.devices([pool], ["vxlan.calico"]))

    def node(name: str, address: str, tunnel: str = "10.0.0.1") -> dict[str, object]:
        bgp = {"ipv4Address": address} if address else {}
        return {"metadata": {"name": name}, "spec": {"bgp": bgp, "ipv4VXLANTunnelAddr": tunnel}}

    found = said(findings.nodes([node("a", "1.1.1.1/24"), node("b", "1.1.1.1/24", ""), node("c", "")], [pool]))
    assert found == [
        "the nodes a and b have one address, 1.1.1.1",
        "the node b has no tunnel address (ipv4VXLANTunnelAddr), which the pool p wants by its vxlanMode",
        "the node c has no address: no host has routes to its workloads",
    ]
    assert len(said(findings.unknown(["/calico/x"], ["/calico/y"]))) == 2


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("ETCD_PASSWORD=hunter2,tail99xx\n", "tail99xx"),
        ("ETCD_PASSWORD=it's-my-pass\n", "my-pass"),
        ("etcdPassword: ab{cd}efgh\n", "efgh"),
        ("net.ipv4.tcp_fastopen_key = 01234567-89abcdef-01234567-89abcdef\n", "89abcdef"),
        ("client-key-data: bm90IGEga2V5IGF0IGFsbA==\n", "bm90IGEga2V5"),
        ("MYSQL_PASS=hunter2x\n", "hunter2x"),
        ("server --pass=hunter2x -v\n", "hunter2x"),
    ],
)
def test_no_part_of_a_value_is_left(line: str, left: str) -> None:
    secrets = Secrets()
    secrets.learn_text(line.encode())
    cleaned = secrets.clean(line.encode()).decode()
    assert left not in cleaned and "<secret<" not in cleaned, cleaned
