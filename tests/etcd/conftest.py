"""What these tests need of the machine."""

from __future__ import annotations

import shutil

import pytest

from libcalico.testing.machine import need


@pytest.fixture(autouse=True)
def etcd_programs() -> None:
    """etcd and etcdctl."""
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    need(shutil.which("etcdctl") is not None, "etcdctl", "apt-get install etcd-client")
