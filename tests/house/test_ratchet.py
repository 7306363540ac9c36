"""The ratchets can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import __main__ as house


@pytest.mark.parametrize(
    "caught", ["", " Exception", " BaseException as e", " (ValueError, Exception)", " builtins.Exception"]
)
def test_a_broad_except_is_found(caught: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    (tmp_path / "one.py").write_text(f"try:\n    pass\nexcept{caught}:\n    pass\n")
    assert list(house.problems(tmp_path / "one.py")) == ["one.py: 1 broad excepts, 0 allowed"]


def test_a_narrow_except_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    (tmp_path / "one.py").write_text("try:\n    pass\nexcept (ValueError, OSError):\n    pass\n")
    assert not list(house.problems(tmp_path / "one.py"))


@pytest.mark.parametrize(("size", "wrong"), [(70, False), (71, True)])
def test_a_long_function_is_found(size: int, wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    (tmp_path / "one.py").write_text("def long():\n" + "    pass\n" * (size - 1))
    assert bool(list(house.problems(tmp_path / "one.py"))) == wrong


def test_a_long_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    (tmp_path / "one.py").write_text("pass\n" * 801)
    assert list(house.problems(tmp_path / "one.py")) == ["one.py: 801 lines, at most 800"]


def test_every_allowance_is_used() -> None:
    for name in house.BROAD_ALLOWED:
        assert (house.ROOT / name).exists(), f"{name} is gone: take its allowance away"
