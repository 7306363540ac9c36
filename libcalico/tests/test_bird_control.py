"""The client of BIRD's control socket against answers as BIRD gives them, and against none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from libcalico.bird.control import NoBird, Refused, ask, configure, find_socket, show_protocols
from libcalico.bird.replies import Protocol
from libcalico.errors import Unavailable

GREETING = b"0001 BIRD 2.0.12 ready.\n"
ROWS = (
    b"2002-Name       Proto      Table      State  Since         Info\n"
    b"1002-kernel4    Kernel     master4    up     07:08:10.973  \n"
    b" Mesh_10_0_5_21 BGP        ---        start  07:08:12.696  Active        Socket: Connection refused\n"
    b"0000 \n"
)


@asynccontextmanager
async def _bird(
    path: Path, answer: bytes, greeting: bytes = GREETING, closes: bool = True
) -> AsyncIterator[list[bytes]]:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        asked.append(await reader.readline())
        writer.write(answer)
        if not closes:
            await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield asked


async def test_protocols(tmp_path: Path) -> None:
    async with _bird(tmp_path / "s", ROWS) as asked:
        rows = await show_protocols(str(tmp_path / "s"), 5)
    assert asked == [b"show protocols\n"]
    assert rows == [
        Protocol("kernel4", "Kernel", "master4", "up", "07:08:10.973", ""),
        Protocol("Mesh_10_0_5_21", "BGP", "---", "start", "07:08:12.696", "Active        Socket: Connection refused"),
    ]


@pytest.mark.parametrize(
    ("answer", "done"),
    [
        (b"0002-Reading configuration from /x\n0003 Reconfigured\n", "reconfigured"),
        (b"0002-Reading configuration from /x\n0004 Reconfiguration in progress\n", "reconfiguration in progress"),
        (b"0005 Reconfiguration already in progress, queueing new config\n", "reconfiguration queued"),
    ],
)
async def test_configure(tmp_path: Path, answer: bytes, done: str) -> None:
    async with _bird(tmp_path / "s", answer):
        assert await configure(str(tmp_path / "s"), 5) == done


async def test_a_file_that_bird_refuses(tmp_path: Path) -> None:
    async with _bird(tmp_path / "s", b"0002-Reading configuration from /x\n8002 /x:3:1 syntax error\n"):
        with pytest.raises(Refused, match=r"^/x:3:1 syntax error$"):
            await configure(str(tmp_path / "s"), 5)


@pytest.mark.parametrize(
    ("greeting", "answer"),
    [
        (b"HTTP/1.1 400\r\n", b""), (b"", b""), (b"0013 no greeting\n", b""), (GREETING, b""),
        (GREETING, b"1002-cut"), (GREETING, b"x" * (1 << 17) + b"\n"), (GREETING, b"\xff\xfe\n"),
    ],
)  # fmt: skip
async def test_what_is_no_bird(tmp_path: Path, greeting: bytes, answer: bytes) -> None:
    async with _bird(tmp_path / "s", answer, greeting):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(show_protocols(str(tmp_path / "s"), 0.5), 5)


async def test_a_bird_that_hangs_costs_the_time_given(tmp_path: Path) -> None:
    async with _bird(tmp_path / "s", b"1002-a\n", closes=False):
        with pytest.raises(Unavailable, match="did not answer 'show status' within"):
            await ask(str(tmp_path / "s"), "show status", 0.2)


async def test_no_bird(tmp_path: Path) -> None:
    with pytest.raises(NoBird, match="ask BIRD"):
        await ask(str(tmp_path / "s"), "show status", 5)


async def test_a_large_answer(tmp_path: Path) -> None:
    rows = b"".join(b" Mesh_10_0_%d_%d BGP --- up 07:08:12 Established\n" % divmod(one, 256) for one in range(20000))
    async with _bird(tmp_path / "s", b"1002-kernel4 Kernel master4 up 07:08:10\n" + rows + b"0000 \n"):
        assert len(await show_protocols(str(tmp_path / "s"), 30)) == 20001


async def test_details_are_asked_for(tmp_path: Path) -> None:
    async with _bird(tmp_path / "s", ROWS) as asked:
        await show_protocols(str(tmp_path / "s"), 5, details=True)
    assert asked == [b"show protocols all\n"]


def test_where_bird_listens(tmp_path: Path) -> None:
    places = [str(tmp_path / "bird2.ctl"), str(tmp_path / "bird.ctl"), str(tmp_path / "other.ctl")]
    assert find_socket(places) == places[2]
    Path(places[1]).touch()
    assert find_socket(places) == places[1]
