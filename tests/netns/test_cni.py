"""The CNI plug-in as executables, in namespaces, with a real etcd: by an agent, without one, and killed half-way.

See `cni_host` for what a host is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from libcalico.workload import locks
from libcalico.workload.errors import TryAgain
from libcalico.workload.locks import hold_netns
from tests.netns.cni_host import ID, NODE, PREFIX, Host, build_plugins, sh

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

# Dies by SIGKILL when the function of the numbered point is about to run ("-") or has run ("+").
KILLER = """
import os, signal, sys
from libcalico.kernel.rtnl import Rtnl
from libcalico.workload import addresses
from libcalico.workload import endpoint
POINTS = [
    (addresses, "assign", "-"), (addresses, "assign", "+"), (Rtnl, "create_veth", "-"), (Rtnl, "create_veth", "+"),
    (Rtnl, "set_link", "+"), (Rtnl, "replace_address", "+"), (Rtnl, "create_route", "+"),
    (endpoint, "create_endpoint", "-"), (endpoint, "create_endpoint", "+"), (endpoint, "ensure_profile", "+"),
]
place, name, side = POINTS[int(os.environ.pop("KILL_POINT"))]
call = getattr(place, name)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
if place is Rtnl:
    def deadly(*args, **kwargs):
        side == "-" and die()
        call(*args, **kwargs)
        die()
else:
    async def deadly(*args, **kwargs):
        side == "-" and die()
        await call(*args, **kwargs)
        die()
setattr(place, name, deadly)
from calico_cni.main import main
sys.argv = ["calico-cni-fallback", "--program", "calico"]
sys.exit(main())
"""
KILL_POINTS = 10


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in's programs in one directory, as installed."""
    target = tmp_path_factory.mktemp("t-cni-bin")
    missing = build_plugins(target)
    if missing:
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return target


@pytest.fixture
async def host(plugins: Path, tmp_path: Path) -> AsyncIterator[Host]:
    if shutil.which("etcd") is None:
        pytest.fail("needs etcd") if os.environ.get("CI") else pytest.skip("needs the program etcd: install it")
    made = Host(plugins, tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def test_mesos_attaches_and_detaches_through_the_agent(host: Host) -> None:
    box = host.box()
    async with host.agent() as agent:
        shown = await host.ok("ADD", box)
        assert shown == {"cniVersion": "0.1.0", "ip4": {"ip": "172.29.0.0/32"}, "dns": {}} or set(shown) == {
            "cniVersion",
            "ip4",
            "dns",
        }
        assert host.interfaces() == ["cali5f0c9e11-2b"]
        assert host.routes() == [shown["ip4"]["ip"].removesuffix("/32")]
        assert agent.calls == 1
        assert await host.ok("DEL", box) is None
    assert await host.problems() == []


async def test_the_same_without_an_agent_and_the_guard_closes_the_door(host: Host) -> None:
    box = host.box()
    await host.ok("ADD", box)
    ruleset = sh("ip", "netns", "exec", host.name, "nft", "list", "table", "inet", "calico")
    assert "unknown workload interface" in ruleset
    address = host.endpoint.removeprefix("http://").partition(":")[0]
    code = f"import socket; socket.create_connection(({address!r}, 2379), 1)"
    tried = ["ip", "netns", "exec", box.rpartition("/")[2], "python3", "-c", code]
    assert b"timed out" in subprocess.run(tried, capture_output=True, check=False).stderr
    await host.ok("DEL", box)
    await host.ok("DEL", box)
    assert await host.problems() == []


async def test_agent_and_fallback_take_over_from_each_other(host: Host) -> None:
    box = host.box()
    async with host.agent():
        first = await host.ok("ADD", box)
    assert await host.ok("ADD", box) == first
    async with host.agent():
        await host.ok("DEL", "")
    assert await host.problems() == []


@pytest.mark.parametrize("with_agent", [True, False])
async def test_a_repeated_add_ends_what_a_killed_agent_began(with_agent: bool, host: Host) -> None:
    """The pair stood, and the endpoint was stored; it had not come to the rest."""
    box = host.box()
    async with host.agent():
        first = await host.ok("ADD", box)
    sh("ip", "-n", box.rpartition("/")[2], "link", "set", "eth0", "down")
    sh("ip", "-n", box.rpartition("/")[2], "addr", "flush", "dev", "eth0")
    host.ip("link", "set", host.interfaces()[0], "down")
    assert host.routes() == []
    async with host.agent() if with_agent else contextlib.nullcontext():
        assert await host.ok("ADD", box) == first
    assert host.routes() == [first["ip4"]["ip"].removesuffix("/32")]
    inside = json.loads(sh("ip", "-n", box.rpartition("/")[2], "-j", "-4", "addr", "show", "eth0"))[0]
    assert (inside["operstate"], inside["addr_info"][0]["local"]) == ("UP", host.routes()[0])
    await host.ok("DEL", box)
    assert await host.problems() == []


async def test_the_same_call_twice_at_once_without_an_agent(host: Host) -> None:
    """Two processes, and the second names the container's namespace by another path."""
    for number in range(5):
        box = host.box()
        async with inhabited(box) as other:
            first, second = await asyncio.gather(host.ok("ADD", box), host.ok("ADD", other))
            assert first == second, number
            assert len(host.interfaces()) == 1
            assert host.routes() == [first["ip4"]["ip"].removesuffix("/32")]
            assert len((await host.client.list("WorkloadEndpoint")).items) == 1
            await asyncio.gather(host.ok("DEL", box), host.ok("DEL", other))
            assert await host.problems() == [], number


async def test_a_container_that_another_call_holds_for_long_is_an_answer(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(locks, "HOLD_TIMEOUT_S", 0.1)
    monkeypatch.setattr(locks, "LOCK_FILE", str(tmp_path / "new" / "netns.lock"))
    box, other = host.box(), host.box()
    async with hold_netns(box):
        with pytest.raises(TryAgain, match="another call has been at work"):
            async with hold_netns(box):
                pass
    async with hold_netns(box), hold_netns(other), hold_netns("/run/netns/gone"), hold_netns(""):
        pass
    assert os.stat(locks.LOCK_FILE).st_mode & 0o777 == 0o600
    monkeypatch.setattr(locks, "LOCK_FILE", "/proc/nowhere/netns.lock")
    async with hold_netns(box), hold_netns(box):
        pass


async def test_a_task_that_locks_its_own_namespace_holds_nobody_up(host: Host) -> None:
    box = host.box()
    await host.ok("ADD", box)
    with open(box) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        async with asyncio.timeout(15):
            await host.ok("DEL", box)
    assert await host.problems() == []


@contextlib.asynccontextmanager
async def inhabited(box: str) -> AsyncIterator[str]:
    """A process that lives in a namespace; the path of the namespace by way of it."""
    name = box.rpartition("/")[2]
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", name, "sh", "-c", "echo; exec sleep 60"), stdout=-1
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield f"/proc/{process.pid}/ns/net"
    finally:
        process.kill()
        await process.wait()


async def test_thirty_at_once(host: Host) -> None:
    boxes = [host.box() for _ in range(30)]
    async with host.agent():
        shown = await asyncio.gather(*(host.ok("ADD", box, str(uuid.uuid4())) for box in boxes))
        assert len({item["ip4"]["ip"] for item in shown}) == len(host.interfaces()) == 30


@pytest.mark.parametrize("gone", [False, True], ids=["namespace stays", "namespace gone"])
async def test_killed_at_ten_points_and_deleted_nothing_leaks(host: Host, gone: bool) -> None:
    for point in range(KILL_POINTS):
        box = host.box()
        environment = host.environment("ADD", box, ID, KILL_POINT=str(point))
        argv = [sys.executable, "-I", "-c", textwrap.dedent(KILLER)]
        code, _, err = await host.program(argv, environment, host.conf)
        assert code in {-9, 137}, f"point {point} was not reached: {code} {err}"
        if gone:
            sh("ip", "netns", "del", host.spaces.pop())
            await asyncio.sleep(0.2)
        code, out, err = await host.run("DEL", "" if gone else box)
        assert code == 0, (point, out, err)
        assert await host.problems() == [], f"after point {point}"


async def test_a_caller_killed_at_any_time_leaves_nothing_after_del(host: Host) -> None:
    async with host.agent():
        for pause_ms in (0, 1, 2, 3, 4, 5, 6, 8, 10, 15):
            box = host.box()
            environment = host.environment("ADD", box, ID, CALICO_NODE_SOCKET=str(host.socket))
            process = await asyncio.create_subprocess_exec(
                str(host.plugins / "calico"), stdin=-1, stdout=-1, env=environment
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(host.conf).encode())
            process.stdin.close()
            await asyncio.sleep(pause_ms / 1000)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await host.ok("DEL", box)
            assert await host.problems() == [], f"killed after {pause_ms} ms"


async def test_a_full_pool_leaves_no_interface(host: Host) -> None:
    pool = await host.client.get("IPPool", "pool")
    await host.client.delete("IPPool", pool.metadata.name)
    box = host.box()
    async with host.agent():
        code, out, _ = await host.run("ADD", box)
    assert (code, out["msg"]) == (1, "cannot find a qualified ippool")
    assert await host.problems() == []


@pytest.mark.parametrize("with_agent", [True, False])
async def test_etcd_down_is_an_answer_in_time(with_agent: bool, host: Host) -> None:
    """Both go on connecting for 10 s: a runtime forgets a container whose DEL has failed."""
    host.etcd.kill()
    host.etcd.wait()

    async def call(command: str) -> None:
        started_s = time.monotonic()
        code, out, _ = await host.run(command, host.box())
        assert (code, out["code"], host.endpoint in out["msg"]) == (1, 11, True), out
        assert 9 < time.monotonic() - started_s < 20

    async with host.agent() if with_agent else contextlib.nullcontext():
        await asyncio.gather(call("ADD"), call("DEL"))
    assert host.interfaces() == []


async def test_the_configurations_of_the_howto_work_as_printed(host: Host) -> None:
    text = (Path(__file__).parents[2] / "docs" / "howto" / "install.md").read_text()
    printed = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    as_list = next(block for block in printed if "plugins" in block)
    as_object = next(block for block in printed if "type" in block)
    common = {name: as_list[name] for name in ("name", "cniVersion")}  # what libcni gives to each member
    for conf in (as_object, *({**member, **common} for member in as_list["plugins"])):
        box = host.box()
        files = {"etcd_endpoints": host.endpoint, "nodename": NODE, "nodename_file_optional": True}
        environment = host.environment("ADD", box, ID, CALICO_NODE_SOCKET=str(host.socket))
        code, out, err = await host.program([str(host.plugins / "calico")], environment, {**conf, **files})
        assert (code, len(out["ips"])) == (0, 1), err
        (stored,) = (await host.client.list("WorkloadEndpoint")).items
        labels = conf.get("args", {}).get("cni", {}).get("labels", [])
        assert {one["key"]: one["value"] for one in labels}.items() <= stored.metadata.labels.items()
        environment["CNI_COMMAND"] = "DEL"
        assert (await host.program([str(host.plugins / "calico")], environment, {**conf, **files}))[0] == 0
    assert await host.problems() == []


async def test_datastore_test_flag(host: Host) -> None:
    environment = host.environment("ADD", "", ID)
    argv = [str(host.plugins / "calico"), "-t"]
    assert await host.program(argv, environment, host.conf) == (0, None, "")
    code, out, _ = await host.program(argv, environment, {**host.conf, "etcd_endpoints": "http://127.0.0.1:1"})
    assert (code, out["code"], out["msg"]) == (1, 100, "data store connection failed")


def test_the_list_of_points_is_as_long_as_it_says() -> None:
    assert KILLER.count('"-"') + KILLER.count('"+"') - KILLER.count('== "-"') == KILL_POINTS


@pytest.fixture(autouse=True)
def no_left_overs() -> Iterator[None]:
    yield
    assert not [name for name in os.listdir("/run/netns") if name.startswith(PREFIX)]
