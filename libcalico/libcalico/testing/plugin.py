"""The fixtures of every distribution's tests, as a plug-in of pytest: `-p libcalico.testing.plugin`.

What a test needs is probed once; when it is missing the test is skipped, in CI it fails. Hypothesis has two profiles:
`whole`, which is the default, and `quick`, a fifth of it, for `make unit`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from libcalico.testing.certificates import Certificates
from libcalico.testing.etcd import Etcd
from libcalico.testing.machine import need, remove_dead_namespaces, sweep_at_the_end

pytest.register_assert_rewrite(
    *(f"libcalico.testing.{name}" for name in ("cni_world", "datastore_contract", "following"))
)

# Else every program that a test starts compiles its sources again, and pytest the test files: a third of the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Else gRPC's threads come to life in a child between fork and exec, and abort.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

settings.register_profile("whole", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("whole"), max_examples=20)
settings.load_profile("whole")


# Programs that tests start find what the tests find, also where Pants laid the sources out.
if "pex_root" in sys.prefix:
    os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(folder).resolve()) for folder in sys.path)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of random tests."""
    parser.addoption("--packets", type=int, default=20_000, help="packets of the kernel = matcher test")
    parser.addoption("--seed", type=int, default=0, help="seed of random tests; 0 takes another one each time")


@pytest.fixture(scope="session")
def root() -> None:
    """The right to make namespaces."""
    need(os.geteuid() == 0, "root", "run as root")


@pytest.fixture(scope="session", autouse=True)
def sweep() -> Iterator[None]:
    """No network namespace stands of test runs that were killed, nor of this one when it is."""
    remove_dead_namespaces()
    with sweep_at_the_end() if os.geteuid() == 0 else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=True)
def severity() -> Iterator[None]:
    """A program that a test runs in this process sets its severity of logging for itself only."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """A running etcd for one test module."""
    need(shutil.which("etcd") is not None, "etcd", "apt-get install etcd-server")
    server = Etcd(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, with a certificate of a server and one of a client; only to be copied."""
    need(shutil.which("openssl") is not None, "openssl", "apt-get install openssl")
    return Certificates(tmp_path_factory.mktemp("signed"))


@pytest.fixture
def certificates(signed: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority of the test's own, with a certificate of a server and one of a client."""
    return signed.copy(tmp_path_factory.mktemp("certificates"))
