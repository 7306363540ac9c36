"""`calico-node`: its command line, and the health checks against a real HTTP server and what BIRD says."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from calico_felix import node
from calico_felix.node import Usage, main, modes_of, parse_flags
from calico_felix.startup import checks
from calico_felix.startup.checks import Place, Unhealthy, check
from calico_felix.startup.show_status import tables
from libcalico.bird.confd_status import ConfdStatus, write_confd_status
from libcalico.clock import SystemClock
from libcalico.model.bgp import (
    AgentStatus,
    BGPDaemonStatus,
    BGPStatus,
    CalicoNodeStatusStatus,
    LearnedFrom,
    PeerStatus,
    RoutesStatus,
    RouteStatus,
)


@pytest.mark.parametrize(
    ("words", "modes"),
    [
        (["-startup"], ["startup"]),
        (["--startup"], ["startup"]),
        (["-startup=true"], ["startup"]),
        (["-felix=false", "-confd"], ["confd"]),
        (["-confd", "-confd-keep-stage-file", "-confd-confdir", "/x"], ["confd"]),
        (["-confd", "-confd-run-once"], ["confd"]),
        (["-bird-ready", "-felix-ready", "-threshold-time", "5s"], ["felix-ready", "bird-ready"]),
        (["-bird6-live", "--threshold-time=1m"], ["bird6-live"]),
        (["-allocate-tunnel-addrs", "-allocate-tunnel-addrs-run-once"], ["allocate-tunnel-addrs"]),
    ],
)
def test_command_lines(words: list[str], modes: list[str]) -> None:
    assert modes_of(parse_flags(words)) == modes


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "No valid options provided. Usage:"),
        (["-startup=false"], "No valid options provided. Usage:"),
        (["-startup", "-felix"], "More than one incompatible argument provided: -startup -felix"),
        (["-startup", "-felix-live"], "More than one incompatible argument provided: -startup -felix-live"),
        (["-v", "-felix"], "More than one incompatible argument provided"),
        (["startup"], "'startup' is no flag"),
        (["-"], "'-' is no flag"),
        (["---startup"], "is no flag"),
        (["-start\nup"], "flag provided but not defined: -start\\nup"),
        (["-startup=perhaps"], "invalid boolean value 'perhaps' for -startup"),
        (["-threshold-time"], "flag needs an argument: -threshold-time"),
        (["-felix-live", "-threshold-time=soon"], "invalid value 'soon' for -threshold-time"),
        (["-felix-live", "-threshold-time=0"], "is not above 0"),
        (["-init"], "-init is not supported here: it prepares hosts of Kubernetes: use -startup"),
        (["-bpf", "x"], "-bpf is not supported here"),
        (["-status-reporter"], "the agent (-felix) fills CalicoNodeStatus objects itself"),
    ],
)
def test_a_wrong_command_line(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    shown = capsys.readouterr().out
    assert reason in shown.splitlines()[0] and "Usage of calico-node:\n  -v\n" in shown


def test_parsing_never_raises_anything_else() -> None:
    for words in (["=", "x"], ["-=x"], ["--"], ["-v="], ["-\x00"]):
        with contextlib.suppress(Usage):
            modes_of(parse_flags(words))


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "calico_felix.node", *words],
        env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_version_and_shutdown(tmp_path: Path) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("-v").stdout)
    file = tmp_path / "shutdownTS"
    done = run("-shutdown", CALICO_SHUTDOWN_TIMESTAMP_FILE=str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", file.read_text()) and file.stat().st_mode & 0o777 == 0o644
    done = run("-shutdown", CALICO_SHUTDOWN_TIMESTAMP_FILE=str(tmp_path / "none" / "x"))
    assert done.returncode == 1 and "make the folder, and mount it read-write" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("Terminating")


@pytest.mark.parametrize("mode", ["-startup", "-allocate-tunnel-addrs", "-monitor-addresses"])
def test_what_is_wrong_is_said_on_stdout(mode: str) -> None:
    done = run(mode, NODENAME="n", IP="10.9.9.9", CALICO_STARTUP_LOGLEVEL="loud")
    assert done.returncode == 1 and done.stderr == ""
    assert "CALICO_STARTUP_LOGLEVEL='loud' is none of trace, debug, info" in done.stdout
    assert "ERROR: Error loading datastore config: no etcd endpoints specified: set ETCD_ENDPOINTS" in done.stdout


@pytest.mark.parametrize("place", ["beside", "path"])
def test_confd_is_another_component(tmp_path: Path, place: str) -> None:
    """Beside the interpreter, or in PATH."""
    python = tmp_path / "beside" / "python3"
    python.parent.mkdir()
    (tmp_path / "path").mkdir()
    words = ["-confd", "-confd-run-once"]
    code = f"import sys; sys.executable = {str(python)!r}; from calico_felix.node import main; sys.exit(main({words}))"

    def confd() -> subprocess.CompletedProcess[str]:
        environment = {"NODENAME": "n", "PATH": str(tmp_path / "path")}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    done = confd()
    assert done.returncode == 1 and "install the package calico-bird" in done.stdout
    folder = tmp_path / place
    (folder / node.CONFD).write_text('#!/bin/sh\necho "$* $NODENAME"\n')
    (folder / node.CONFD).chmod(0o755)
    assert confd().stdout == "-confd-run-once n\n"


class Health(http.server.BaseHTTPRequestHandler):
    """The agent's pages; what each answers."""

    statuses: Mapping[str, int] = {}

    def do_GET(self) -> None:
        self.send_response(self.statuses[self.path])
        self.end_headers()

    def log_message(self, format: str, *_arguments: object) -> None:
        pass


@pytest.fixture
def health() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("family", ["localhost", "127.0.0.1"])
def test_the_agents_health(health: int, family: str) -> None:
    where = {"FELIX_HEALTHPORT": str(health), "FELIX_HEALTHHOST": family}
    Health.statuses = {"/liveness": 204, "/readiness": 503}
    done = run("-felix-live", **where)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("-felix-live", "-felix-ready", **where)
    assert (done.returncode, done.stdout) == (
        1, "calico/node is not ready: felix is not ready: readiness probe reporting 503\n",
    )  # fmt: skip
    Health.statuses = {"/liveness": 503, "/readiness": 200}
    assert run("-felix-live", **where).stdout.endswith("Felix is not live: liveness probe reporting 503\n")
    assert run("-felix-ready", **where).returncode == 0


def test_an_agent_that_is_away_and_a_port_that_is_none() -> None:
    done = run("-felix-ready", FELIX_HEALTHPORT="1", FELIX_HEALTHHOST="127.0.0.1")
    assert done.returncode == 1 and done.stdout.startswith(
        "calico/node is not ready: felix is not ready: GET http://127.0.0.1:1/"
    )
    done = run("-felix-ready", FELIX_HEALTHPORT="x")
    assert done.returncode == 1 and "parameter HealthPort from the environment: 'x'" in done.stdout


BIRD1 = "0001 BIRD v0.3.3+birdv1.6.8 ready."
BIRD2 = "0001 BIRD 2.0.12 ready."
ROWS = {
    "up": "1002-Mesh_10_0_5_21 BGP        {table} up     2026-03-01 10:00:00  Established   ",
    "down": "1002-Node_10_0_6_2 BGP        {table} start  10:00:00    Connect       Socket: Connection refused",
    "global": "1002-Global_10_0_7_2 BGP        {table} start  10:00:00    Active        ",
    "six": "1002-Mesh_fd00__2 BGP        {table} start  10:00:00    Idle          ",
    "local": "1002-Local_Workload_10_65_0_2 BGP        {table} start  10:00:00    Idle          ",
    "static": "1002-static1 Static     {table} up     10:00:00    ",
}


@contextlib.asynccontextmanager
async def bird(path: Path, rows: list[str], greeting: str = BIRD2, recovering: bool = False) -> AsyncIterator[None]:
    """A control socket that says what BIRD says."""
    second = greeting == BIRD2
    heading = "2002-Name       Proto      Table      State  Since         Info"
    lines = [ROWS[row].format(table="---" if second else "master") for row in rows]
    protocols = "\n".join([heading, *lines, "0000 \n"])
    restart = "0024-Graceful restart recovery in progress\n" if recovering else ""
    status = f"1000-{greeting[5:-7]}\n1011-Router ID is 10.0.5.1\n{restart}0013 Daemon is up and running\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{greeting}\n".encode())
        command = (await reader.readline()).decode().strip()
        writer.write({"show protocols": protocols, "show status": status}[command].encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, str(path)):
        yield


async def ready(folder: Path, version: int = 4, threshold_s: float = 30.0) -> str:
    socket = str(folder / "bird.ctl")
    place = Place(("127.0.0.1", 1), socket, socket, folder / "nodename")
    try:
        await check(["bird-ready" if version == 4 else "bird6-ready"], place, SystemClock(), threshold_s)
    except Unhealthy as error:
        return str(error).removeprefix(checks.PREFIX)
    return ""


YOUNG, OLD = 0, 3600


@pytest.mark.parametrize("greeting", [BIRD1, BIRD2])
@pytest.mark.parametrize(
    ("rows", "age_s", "recovering", "reason"),
    [
        (["static"], YOUNG, False, ""),
        (["up"], YOUNG, False, ""),
        (["up"], YOUNG, True, "BIRD is not ready: graceful restart in progress"),
        (["up"], OLD, True, ""),
        (["up", "down", "global"], YOUNG, False, "BIRD is not ready: BGP not established with 10.0.6.2,10.0.7.2"),
        (["up", "down", "global"], OLD, False, ""),
        (["down", "global"], OLD, False, "BIRD is not ready: BGP not established with 10.0.6.2,10.0.7.2"),
        (["up", "six", "local"], YOUNG, False, ""),
    ],
)
async def test_when_bird_is_ready(
    tmp_path: Path, greeting: str, rows: list[str], age_s: int, recovering: bool, reason: str
) -> None:
    (tmp_path / "nodename").write_text("n")
    now_s = SystemClock().now().timestamp()
    os.utime(tmp_path / "nodename", (now_s - age_s, now_s - age_s))
    async with bird(tmp_path / "bird.ctl", rows, greeting, recovering):
        assert await ready(tmp_path) == reason
        if "six" in rows:
            assert await ready(tmp_path, 6) == "BIRD6 is not ready: BGP not established with fd00::2"


async def test_when_bird_cannot_be_asked(tmp_path: Path) -> None:
    assert (await ready(tmp_path)).startswith("BIRD is not ready: failed to stat() nodename file: ")
    (tmp_path / "nodename").write_text("n")
    assert (await ready(tmp_path)).startswith("BIRD is not ready: ask BIRD at ")
    socket = str(tmp_path / "bird.ctl")

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with await asyncio.start_unix_server(hang, socket):
        assert "did not answer" in await ready(tmp_path, threshold_s=0.2) or "no answer within 0.2 s" in await ready(
            tmp_path, threshold_s=0.2
        )
    place = Place(("127.0.0.1", 1), socket, socket, tmp_path / "nodename")
    with pytest.raises(Unhealthy, match="bird6/confd is not live: "):
        await check(["bird6-live"], place, SystemClock(), 5.0)


async def test_bird_and_confd_live(tmp_path: Path) -> None:
    confd, socket = str(tmp_path / "confd.json"), str(tmp_path / "bird.ctl")
    place = Place(("127.0.0.1", 1), socket, socket, tmp_path / "nodename", confd)

    async def failure() -> str:
        try:
            await check(["bird-live"], place, SystemClock(), 5.0)
        except Unhealthy as error:
            return str(error).removeprefix(f"{checks.PREFIX}bird/confd is not live: ")
        return ""

    status = ConfdStatus(node="n", pid=os.getpid(), updated="", source="agent", file="")
    async with bird(tmp_path / "bird.ctl", []):
        assert await failure() == f"dcos-calico-confd has not run: there is no {confd}"
        write_confd_status(confd, status)
        assert await failure() == ""
        ended = subprocess.Popen(["true"])
        ended.wait()
        write_confd_status(confd, msgspec.structs.replace(status, pid=ended.pid))
        assert await failure() == f"dcos-calico-confd, process {ended.pid}, has ended"
        Path(confd).write_text("{")
        assert (await failure()).startswith(f"read {confd}: ")
    write_confd_status(confd, status)
    assert (await failure()).startswith("ask BIRD at ")


def test_without_bird_nothing_is_ready() -> None:
    done = run("-show-status")
    assert (done.returncode, done.stderr) == (0, "") and "IPv4 agent\n" in done.stdout
    assert re.search(r"\| NotReady \|", done.stdout) and "IPv6 BGP peers: 0 established, 0 not\n" in done.stdout


def test_the_status_of_bird_as_tables(capsys: pytest.CaptureFixture[str]) -> None:
    status = CalicoNodeStatusStatus(
        agent=AgentStatus(bird_v4=BGPDaemonStatus("Ready", "2.0.12", "10.0.5.1", "2026-03-01 10:00:00", "10:05")),
        bgp=BGPStatus(1, 0, 0, 0, peers_v4=[PeerStatus("10.0.5.21", "NodeMesh", "Established", "10:00:03")]),
        routes=RoutesStatus(
            routes_v6=[RouteStatus("FIB", "fd00::/122", "N/A", "black\nhole", LearnedFrom("Static", ""))]
        ),
    )
    print("\n".join(tables(status)))
    lines = capsys.readouterr().out.splitlines()
    assert "IPv4 BGP peers: 1 established, 0 not" in lines and "IPv6 routes" in lines
    assert "| 10.0.5.21 | NodeMesh | Established | 10:00:03 |" in lines
    assert "| Ready | 2.0.12  | 10.0.5.1  | 2026-03-01 10:00:00 | 10:05                     |" in lines
    assert any("FIB" in line and "fd00::/122" in line and "black\\nhole" in line for line in lines)
