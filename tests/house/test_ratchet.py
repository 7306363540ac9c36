"""The ratchets can fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house import __main__ as house
from tests.house.sizes import ClassSize

Check = Callable[..., list[str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """What is wrong with a file of this text."""

    def check(text: str, name: str = "one.py") -> list[str]:
        monkeypatch.setattr(house, "ROOT", tmp_path)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return list(house.problems(tmp_path / name))

    return check


@pytest.mark.parametrize(
    "caught", ["", " Exception", " BaseException as e", " (ValueError, Exception)", " builtins.Exception"]
)
def test_a_broad_except_is_found(caught: str, check: Check) -> None:
    assert check(f"try:\n    pass\nexcept{caught}:\n    pass\n") == ["one.py: 1 broad excepts, 0 allowed"]


def test_a_narrow_except_is_none(check: Check) -> None:
    assert not check("try:\n    pass\nexcept (ValueError, OSError):\n    pass\n")


@pytest.mark.parametrize(("size", "wrong"), [(55, False), (56, True)])
def test_a_long_function_is_found(size: int, wrong: bool, check: Check) -> None:
    assert bool(check("def long():\n" + "    pass\n" * (size - 1))) == wrong


def test_a_long_file_is_found(check: Check) -> None:
    assert check("pass\n" * 651) == ["one.py: 651 lines, at most 650"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("    pass\n" * 299, ""),
        ("    pass\n" * 300, "301 lines, at most 300"),
        ("".join(f"    def m{n}(self): ...\n" for n in range(26)), "26 methods, at most 25"),
        ("".join(f"    f{n}: int\n" for n in range(16)), "16 fields, at most 15"),
        ("    t: ClassVar[int] = 1\n" + "".join(f"    f{n}: int\n" for n in range(15)), ""),
        ("    f0: int\n    def __init__(this):\n" + "".join(f"        this.f{n} = 1\n" for n in range(16)),
         "16 fields, at most 15"),
        ("    def m(self):\n        self.a, (self.b, *self.c) = x\n" + "".join(f"    f{n}: int\n" for n in range(13)),
         "16 fields, at most 15"),
        ("    def m(self):\n" + "".join(f"        self.f{n} += other.g{n}\n" for n in range(15)), ""),
    ],
)  # fmt: skip
def test_a_large_class_is_found(body: str, problem: str, check: Check) -> None:
    assert check("class C:\n" + body) == ([f"one.py:1: C has {problem}"] if problem else [])


def test_an_allowance_is_a_limit_and_ends(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "CLASSES_ALLOWED", {"one.py C": ClassSize(310, 25, 15)})
    assert check("class C:\n" + "    pass\n" * 309) == []
    assert check("class C:\n" + "    pass\n" * 310) == ["one.py:1: C has 311 lines, at most 310"]
    assert "keeps the limits" in check("class C:\n    pass\n")[0]
    assert check("pass\n") == []
    assert any("one.py C is gone" in problem for problem in house.stale_allowances())


def test_a_value_may_have_the_fields_of_its_document(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "VALUES", {"one.py C"})
    fields = "".join(f"    f{n}: int\n" for n in range(40))
    assert check("class C:\n" + fields) == []
    assert check("class C:\n" + fields + "    def m(self): ...\n") == ["one.py:1: C has 40 fields, at most 15"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("libcalico/libcalico/calc/x.py", "now = time.monotonic()"),
        ("libcalico/libcalico/calc/x.py", "now = datetime.now(UTC)"),
        ("libcalico/libcalico/model/x.py", "import os\nos.environ['A']"),
        ("components/felix/calico_felix/x.py", "from time import monotonic"),
        ("components/felix/calico_felix/x.py", "task = asyncio.create_task(work())"),
        ("components/felix/calico_felix/x.py", "asyncio.ensure_future(work())"),
        ("components/felix/calico_felix/x.py", "import subprocess"),
        ("components/felix/calico_felix/x.py", "from subprocess import run"),
        ("libcalico/libcalico/cni/x.py", "await_(asyncio.create_subprocess_exec('a'))"),
        ("libcalico/libcalico/obs/x.py", "socket.socket(socket.AF_NETLINK)"),
        ("components/felix/tests/test_x.py", "from tests.netns import spaces"),
        ("tests/netns/test_x.py", "from tests.netns.test_y import Agent"),
    ],
)
def test_what_is_banned_is_found(name: str, text: str, check: Check) -> None:
    assert len(check(text + "\n", name)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("libcalico/libcalico/clock.py", "time.monotonic()"),
        ("libcalico/libcalico/kernel/x.py", "import subprocess\nsocket.socket(socket.AF_NETLINK)"),
        ("libcalico/libcalico/testing/x.py", "import subprocess\ntime.monotonic()"),
        ("components/felix/calico_felix/x.py", "group.create_task(work())\nleft = asyncio.ensure_future(work())"),
        ("tests/netns/test_x.py", "from tests.netns.spaces import Space\nimport subprocess"),
    ],
)
def test_what_has_its_place_is_not(name: str, text: str, check: Check) -> None:
    assert check(text + "\n", name) == []


def test_every_allowance_is_used() -> None:
    for name in house.BROAD_ALLOWED:
        assert (house.ROOT / name).exists(), f"{name} is gone: take its allowance away"
    assert list(house.stale_allowances()) == []
