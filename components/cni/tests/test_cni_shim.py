"""The C program against agents of every kind: good, absent, old, dying, silent, babbling. Needs gcc and libnghttp2."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs
from libcalico.rpc.channel import open_server
from libcalico.workload.locks import LINGER_S
from libcalico.workload.work import CALL_TIMEOUT_S

SOURCE = Path(__file__).parents[1] / "shim" / "shim.c"
STUB = f"""#!{sys.executable} -I
import json, os, sys
print(json.dumps({{"fallback": sys.argv[1:], "stdin": sys.stdin.read(), "env": dict(os.environ)}}))
sys.exit(3)
"""


def build(target: Path, longest_call_ms: int, longest_repeatable_ms: int = 60_000) -> None:
    """Put `calico`, `calico-ipam`, and a fallback that tells how it was called into a directory."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    command = [compiler or "cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-static"]
    command += [f"-DCALL_TIMEOUT_MS={longest_call_ms}", f"-DREPEATABLE_TIMEOUT_MS={longest_repeatable_ms}"]
    command += [str(SOURCE), "-o", str(target / "calico"), "-lnghttp2"]
    built = subprocess.run(command, capture_output=True, text=True, check=False) if compiler else None
    if built is None or built.returncode:
        reason = "needs gcc and libnghttp2-dev: " + (built.stderr[-300:] if built else "no compiler")
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    shutil.copy(target / "calico", target / "calico-ipam")
    (target / "calico-cni-fallback").write_text(STUB)
    (target / "calico-cni-fallback").chmod(0o755)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed programs; a call may take long."""
    target = tmp_path_factory.mktemp("t-cni-shim")
    build(target, 60_000)
    return target


class Run:
    """One run of the program, as Mesos starts it: nothing but CNI_* and PATH in the environment."""

    def __init__(self, directory: Path, path: Path) -> None:
        self.directory = directory
        self.path = path

    async def __call__(
        self, command: str = "ADD", stdin: bytes = b"{}", name: str = "calico", *argv: str, **more: str
    ) -> tuple[int, bytes, bytes]:
        environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "PATH": "/bin", **more}
        environment["CALICO_NODE_SOCKET"] = str(self.path)
        process = await asyncio.create_subprocess_exec(
            str(self.directory / name), *argv, stdin=-1, stdout=-1, stderr=-1, env=environment
        )
        async with asyncio.timeout(90):
            out, err = await process.communicate(stdin)
        return process.returncode or 0, out, err


@pytest.fixture
def run(programs: Path, tmp_path: Path) -> Run:
    return Run(programs, tmp_path / "node.sock")


class Agent(stubs.WorkloadsServicer):  # type: ignore[misc]
    def __init__(self, reply: Callable[[Any, Any], Any]) -> None:
        self.reply = reply
        self.seen: list[Any] = []
        self.cancelled = asyncio.Event()

    async def Cni(self, request: Any, context: Any) -> Any:
        self.seen.append(request)
        try:
            return await self.reply(request, context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def agent(run: Run, reply: Callable[[Any, Any], Any]) -> AsyncIterator[Agent]:
    served = Agent(reply)
    server = open_server(str(run.path))
    stubs.add_WorkloadsServicer_to_server(served, server)
    await server.start()
    try:
        yield served
    finally:
        await server.stop(0)


async def echo(request: Any, _context: Any) -> Any:
    return pb.CniReply(exit_code=0, stdout=request.stdin, stderr=request.program.encode())


async def test_environment_and_stdin_go_there_and_the_answer_comes_back(run: Run) -> None:
    async def reply(_request: Any, _context: Any) -> Any:
        return pb.CniReply(exit_code=7, stdout=b"out \xff\n", stderr=b"err\n")

    async with agent(run, reply) as served:
        assert await run("DEL", b'{"name": "x"}', "calico-ipam", CNI_ARGS="A=1;B=2", HOME="/root") == (
            7,
            b"out \xff\n",
            b"err\n",
        )
    (request,) = served.seen
    assert (request.program, request.api_version, request.stdin) == ("calico-ipam", 1, b'{"name": "x"}')
    assert dict(request.environment) == {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "c1",
        "CNI_ARGS": "A=1;B=2",
        "PATH": "/bin",
        "CALICO_CALLER_DIRECTORY": os.getcwd(),
    }


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_535, 65_536, 300_000, 4_000_000])
async def test_large_configurations_and_answers(run: Run, size: int) -> None:
    async with agent(run, echo):
        code, out, _ = await run("ADD", b"x" * size)
    assert (code, len(out)) == (0, size)


async def test_more_than_the_limit_is_refused(run: Run) -> None:
    async with agent(run, echo) as served:
        code, out, _ = await run("ADD", b"x" * (9 << 20))
    assert (code, json.loads(out)["code"]) == (1, 5)
    assert served.seen == []


async def test_many_at_once(run: Run) -> None:
    async with agent(run, echo):
        answers = await asyncio.gather(*(run("ADD", str(i).encode()) for i in range(60)))
    assert [out for _code, out, _err in answers] == [str(i).encode() for i in range(60)]


async def test_version_does_not_wait_for_stdin(run: Run) -> None:
    async with agent(run, echo):
        environment = {"CNI_COMMAND": "VERSION", "CALICO_NODE_SOCKET": str(run.path)}
        process = await asyncio.create_subprocess_exec(
            str(run.directory / "calico"), stdin=-1, stdout=-1, env=environment
        )
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        assert process.stdin is not None
        process.stdin.close()


def as_fallback(out: bytes, program: str = "calico", *argv: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(out)
    assert told["fallback"] == ["--program", program, *argv]
    return told


@pytest.mark.parametrize("left_over", [False, True])
async def test_no_agent_is_the_fallback_with_stdin_untouched(run: Run, left_over: bool) -> None:
    if left_over:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(run.path))
    code, out, _ = await run("ADD", b'{"name": "x"}', PYTHONPATH="/evil", PYTHONHOME="/evil", LANG="C")
    assert code == 3
    told = as_fallback(out)
    assert told["stdin"] == '{"name": "x"}'
    assert not [name for name in told["env"] if name.startswith("PYTHON")]
    assert told["env"]["LANG"] == "C"


async def test_arguments_go_to_the_fallback_even_with_an_agent(run: Run) -> None:
    async with agent(run, echo):
        _, out, _ = await run("", b"", "calico-ipam", "-v")
    as_fallback(out, "calico-ipam", "-v")


async def test_an_agent_of_another_version_is_the_fallback_with_stdin_replayed(run: Run) -> None:
    async def refuse(_request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "other version")

    async with agent(run, refuse):
        _, out, _ = await run("ADD", b"y" * 100_000)
    assert as_fallback(out)["stdin"] == "y" * 100_000


async def test_an_agent_without_the_service_is_the_fallback(run: Run) -> None:
    server = open_server(str(run.path))
    await server.start()
    _, out, _ = await run("ADD")
    as_fallback(out)
    await server.stop(0)


async def test_an_agent_that_fails_is_an_error_with_its_words(run: Run) -> None:
    async def crash(_request: Any, _context: Any) -> Any:
        raise RuntimeError("oops")

    async with agent(run, crash):
        code, out, _ = await run("ADD")
    assert code == 1
    assert json.loads(out)["code"] == 11
    assert "oops" in json.loads(out)["details"]


class Socket:
    """A listener that does one thing with each connection, in a thread."""

    def __init__(self, path: Path, act: Callable[[socket.socket], None]) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.act = act
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with self.listener.accept()[0] as connection:
            self.act(connection)


def close_at_once(connection: socket.socket) -> None:
    connection.close()


def die_after_the_request(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.close()


def babble(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 50)


def stay_silent(connection: socket.socket) -> None:
    connection.recv(65536)
    threading.Event().wait(90)


@pytest.mark.parametrize("act", [close_at_once, die_after_the_request, babble])
async def test_add_is_never_done_twice(run: Run, act: Callable[[socket.socket], None]) -> None:
    Socket(run.path, act)
    code, out, _ = await run("ADD")
    assert (code, json.loads(out)["code"]) == (1, 11)


async def test_add_is_not_done_twice_after_a_silence_either(tmp_path: Path) -> None:
    build(tmp_path, 300)
    run = Run(tmp_path, tmp_path / "node.sock")
    Socket(run.path, stay_silent)
    code, out, _ = await run("ADD")
    assert (code, json.loads(out)["code"]) == (1, 11)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["DEL", "CHECK"])
async def test_what_may_be_repeated_is_done_by_the_fallback_after_a_silence(tmp_path: Path, command: str) -> None:
    build(tmp_path, 60_000, 2_100)
    run = Run(tmp_path, tmp_path / "node.sock")
    Socket(run.path, stay_silent)
    _, out, _ = await run(command, b"stdin")
    assert json.loads(out)["stdin"] == "stdin"
    assert json.loads(out)["fallback"] == ["--program", "calico", "--seconds", "68"]


def test_no_call_takes_more_than_90_s() -> None:
    """The limits of the program and of the agent, which must end first, fit into each other."""
    text = SOURCE.read_text()
    found = {name: int(value) for name, value in re.findall(r"#define (\w+) \"?(\d+)S?\"?", text)}
    assert found["LONGEST_CALL_S"] == 90
    assert CALL_TIMEOUT_S + LINGER_S < found["GRPC_TIMEOUT"] < found["CALL_TIMEOUT_MS"] / 1000 < 90
    assert found["REPEATABLE_GRPC_TIMEOUT"] < found["REPEATABLE_TIMEOUT_MS"] / 1000 < 90 - found["LINGER_S"]
    assert found["LINGER_S"] == LINGER_S


@pytest.mark.parametrize("act", [close_at_once, die_after_the_request, babble])
@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
async def test_what_may_be_repeated_is_done_by_the_fallback(
    run: Run, act: Callable[[socket.socket], None], command: str
) -> None:
    Socket(run.path, act)
    _, out, _ = await run(command, b"stdin")
    assert as_fallback(out)["stdin"] == "stdin"


async def test_a_caller_that_is_killed_cancels_the_call(run: Run) -> None:
    async def hang(_request: Any, _context: Any) -> Any:
        await asyncio.sleep(30)

    async with agent(run, hang) as served:
        environment = {"CNI_COMMAND": "ADD", "CALICO_NODE_SOCKET": str(run.path)}
        process = await asyncio.create_subprocess_exec(
            str(run.directory / "calico"), stdin=subprocess.DEVNULL, stdout=-1, env=environment
        )
        while not served.seen:
            await asyncio.sleep(0.01)
        process.kill()
        async with asyncio.timeout(25):
            await served.cancelled.wait()
        await process.wait()


async def test_an_unknown_name_is_told(programs: Path) -> None:
    (programs / "other").symlink_to(programs / "calico") if not (programs / "other").exists() else None
    process = await asyncio.create_subprocess_exec(str(programs / "other"), stderr=-1, stdout=-1, env={})
    _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"Unknown binary name: other\n")


async def test_a_missing_fallback_is_told(programs: Path, tmp_path: Path) -> None:
    shutil.copy(programs / "calico", tmp_path / "calico")
    process = await asyncio.create_subprocess_exec(
        str(tmp_path / "calico"), stdin=subprocess.DEVNULL, stdout=-1, env={"CALICO_NODE_SOCKET": str(tmp_path / "x")}
    )
    out, _ = await process.communicate()
    assert process.returncode == 1
    assert "start calico-felix" in json.loads(out)["msg"]
