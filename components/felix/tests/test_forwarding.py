"""Forwarding that cannot be switched on is a problem that is logged once."""

from __future__ import annotations

import errno

import pytest

from calico_felix.forwarding import KEYS, Forwarding
from libcalico.kernel import sysctl
from libcalico.kernel.errors import KernelError


def test_what_cannot_be_switched_on_is_said_once_and_tried_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    closed = {KEYS[0]}

    def ensure(key: str, value: int) -> bool:
        if key in closed:
            raise KernelError(f"set {key}={value}", errno.EROFS)
        return False

    monkeypatch.setattr(sysctl, "ensure", ensure)
    monkeypatch.setattr(sysctl, "has_ipv6", lambda: True)
    switches = Forwarding()
    switches.ensure()
    assert switches.problems() == []  # not before settings ask for it
    switches.start()
    for _ in range(3):
        switches.ensure()
        (problem,) = switches.problems()
        assert KEYS[0] in problem and "Read-only" in problem and "no packet is forwarded" in problem
    assert caplog.text.count(KEYS[0]) == 1
    closed.clear()
    switches.ensure()
    assert switches.problems() == []
