"""`calicoctl node status`: which processes count, and the tables, against sockets that answer as BIRD does."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calicoctl import processes
from calicoctl.commands import node_status
from calicoctl.main import main

STATUS = "1000-BIRD {version}\n1011-Router ID is 10.0.4.17\n0013 Daemon is up and running\n"
ROWS_2 = """2002-Name       Proto      Table      State  Since         Info
1002-kernel4    Kernel     master4    up     05:13:23      \x20
 Mesh_10_0_5_21 BGP        ---        up     05:13:27      Established  \x20
 Node_10_0_5_22_port_1790 BGP        ---        start  05:13:23      Active        Socket: No route to host
 Global_fd77__2 BGP        ---        up     05:13:23      Established
 Local_Workload_10_88_1_5 BGP        ---        start  05:13:23      Passive      \x20
 other BGP        ---        start  05:13:23      Passive      \x20
0000\x20
"""
ROWS_1 = """2002-name     proto    table    state  since       info
1002-kernel1  Kernel   master   up     05:13:39   \x20
 Mesh_10_0_5_21 BGP      master   up     05:13:42    Established  \x20
0000\x20
"""
TABLES = """Calico process is running.

IPv4 BGP status
+----------------+-------------------+-------+----------+----------------------------+
|  PEER ADDRESS  |     PEER TYPE     | STATE |  SINCE   |            INFO            |
+----------------+-------------------+-------+----------+----------------------------+
| 10.0.5.21      | node-to-node mesh | up    | 05:13:27 | Established                |
| 10.0.5.22:1790 | node specific     | start | 05:13:23 | Active Socket: No route to |
|                |                   |       |          | host                       |
| 10.88.1.5      | local workload    | start | 05:13:23 | Passive                    |
+----------------+-------------------+-------+----------+----------------------------+

IPv6 BGP status
+--------------+-----------+-------+----------+-------------+
| PEER ADDRESS | PEER TYPE | STATE |  SINCE   |    INFO     |
+--------------+-----------+-------+----------+-------------+
| fd77::2      | global    | up    | 05:13:23 | Established |
+--------------+-----------+-------+----------+-------------+

"""


@contextmanager
def bird(path: Path, version: str, rows: str) -> Iterator[None]:
    """A BIRD that answers `show status` and `show protocols`."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    answers = {"show status\n": STATUS.format(version=version), "show protocols\n": rows}

    def serve() -> None:
        while True:
            try:
                connected, _ = listening.accept()
            except OSError:
                return
            with connected, connected.makefile("rw") as file:
                file.write(f"0001 BIRD {version} ready.\n")
                file.flush()
                file.write(answers[file.readline()])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with an agent and a BIRD, whose sockets are here."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    _with_processes(monkeypatch, ["/opt/mesosphere/bin/calico-node", "-felix"], ["bird", "-R"])
    monkeypatch.setattr(node_status, "SOCKETS", (str(tmp_path / "bird.ctl"),))
    monkeypatch.setattr(node_status, "SOCKETS_V6", (str(tmp_path / "bird6.ctl"),))
    return tmp_path


def _with_processes(monkeypatch: pytest.MonkeyPatch, *lines: list[str]) -> None:
    monkeypatch.setattr(processes, "command_lines", lambda: iter(lines))


def test_both_families_of_one_bird_2(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with bird(host / "bird.ctl", "2.0.12", ROWS_2):
        assert main(["node", "status"]) == 0
    assert capsys.readouterr().out == TABLES


def test_bird_1_without_and_with_its_sibling(
    host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bird(host / "bird.ctl", "1.6.8", ROWS_1):
        assert main(["node", "status"]) == 0
        assert capsys.readouterr().out.endswith("\n\nINFO: BIRDv6 process: 'bird6' is not running.\n\n")
        _with_processes(monkeypatch, ["calico-felix"], ["bird"], ["bird6"])
        with bird(host / "bird6.ctl", "1.6.8", ROWS_1.replace("Mesh_10_0_5_21", "Mesh_fd77__2")):
            assert main(["node", "status"]) == 0
    text = capsys.readouterr().out
    assert "IPv4 BGP status" in text and "| fd77::2 " in text.partition("IPv6 BGP status")[2]


def test_no_peers(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with bird(host / "bird.ctl", "2.0.12", "0000 \n"):
        assert main(["node", "status"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("\nIPv4 BGP status\nNo IPv4 peers found.\n\nIPv6 BGP status\nNo IPv6 peers found.\n\n")


def test_no_bird_only_bird6_and_a_socket_without_a_listener(
    host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["node", "status"]) == 0
    assert "Error querying BIRD: unable to connect to BIRDv4 socket: ask BIRD at" in capsys.readouterr().out
    _with_processes(monkeypatch, ["calico-felix"], ["bird6"])
    assert main(["node", "status"]) == 0
    assert "\nINFO: BIRDv4 process: 'bird' is not running.\n" in capsys.readouterr().out
    _with_processes(monkeypatch, ["calico-felix"])
    assert main(["node", "status"]) == 0
    expected = "Calico process is running.\n\nThe BGP backend process (BIRD) is not running.\n\n"
    assert capsys.readouterr().out == expected


def test_no_agent_and_no_root(host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _with_processes(monkeypatch, ["bird"], ["calico-felix", "startup"])
    assert main(["node", "status"]) == 1
    assert capsys.readouterr() == ("", "Calico process is not running.\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["node", "status"]) == 1
    assert capsys.readouterr() == ("Need super user privileges: Operation not permitted\n", "")


@pytest.mark.parametrize(
    ("words", "is_agent"),
    [
        (["calico-felix"], True), (["/usr/bin/calico-felix", "run"], True), (["calico-felix", "startup"], False),
        (["calico-node", "-felix"], True), (["calico-node", "-startup"], False), (["x", "-felix"], True),
        (["/v/bin/python3.11", "/v/bin/calico-felix"], True), (["python", "-m", "calico_felix.main"], True),
        (["python", "-sE", "-X", "utf8", "/v/bin/calico-felix", "teardown"], False), (["python"], False),
        (["python", "-c", "calico-felix"], False), (["vi", "calico-felix"], False),
    ],
)  # fmt: skip
def test_which_processes_are_the_agent(words: list[str], is_agent: bool) -> None:
    assert processes.has_agent([words]) is is_agent


def test_processes_of_this_network() -> None:
    assert any("pytest" in word for words in processes.command_lines() for word in words)
