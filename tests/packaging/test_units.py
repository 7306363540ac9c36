"""The units for any host: systemd reads them without a word, and they may do what the page says and no more."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from calico_felix.parameters import PARAMETERS
from libcalico.datastore.settings import SETTINGS

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "packaging" / "systemd"
PAGE = ROOT / "docs" / "howto" / "install-systemd.md"
NAMES = sorted(path.name for path in UNITS.glob("*.service"))
PROGRAM = re.compile(r"^(?:Exec\w+|ConditionFileIsExecutable)=[-@]?(/\S+)", re.MULTILINE)
EXPOSURE = re.compile(r"Overall exposure level for \S+: (\d+\.\d)")
STATED = re.compile(r"^\| `(calico-\w+)` \| (\d+\.\d) \|", re.MULTILINE)
VARIABLE = re.compile(r"^#?([A-Z][A-Z0-9_]*)=", re.MULTILINE)
LEAST_ISOLATED = 5.0
"""No service without need of the kernel's network may be worse (`systemd-analyze security`)."""
OF_STARTUP = {
    "NODENAME", "IP", "CALICO_IPV4POOL_CIDR", "CALICO_IPV4POOL_VXLAN", "CALICO_IPV4POOL_NAT_OUTGOING",
    "NO_DEFAULT_POOLS", "BGP_LOGSEVERITYSCREEN", "CALICO_ROUTER_ID", "CALICO_LIBNETWORK_LABEL_ENDPOINTS",
}  # fmt: skip
"""Variables of start-up, confd, libnetwork, which no table of ours lists (spec/node-startup.md, spec/libnetwork.md)."""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A root with our units, systemd's targets and the programs that the units start."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for target in Path("/usr/lib/systemd/system").glob("*.target"):
        shutil.copy(target, units)
    for name in NAMES:
        shutil.copy(UNITS / name, units)
        for program in PROGRAM.findall((UNITS / name).read_text()):
            path = tmp_path / program.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#!/bin/sh\n")
            path.chmod(0o755)
    return tmp_path


def verify(host: Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={host}", *NAMES], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_systemd_reads_them_without_a_word(host: Path) -> None:
    assert NAMES == ["calico-bird.service", "calico-confd.service", "calico-felix.service", "calico-libnetwork.service"]
    assert verify(host) == ""


def test_a_word_that_systemd_does_not_know_would_be_seen(host: Path) -> None:
    unit = host / "usr/lib/systemd/system/calico-confd.service"
    unit.write_text(unit.read_text().replace("RestartSec=2", "RestartSec=soon"))
    assert "soon" in verify(host)
    (host / "usr/sbin/bird").unlink()
    assert "/usr/sbin/bird" in verify(host)


def exposure(unit: str) -> float:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(UNITS / unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    return float(EXPOSURE.findall(done.stdout + done.stderr)[0])


def test_exposure_is_what_the_page_states() -> None:
    measured = {name.removesuffix(".service"): exposure(name) for name in NAMES}
    assert measured == {name: float(figure) for name, figure in STATED.findall(PAGE.read_text())}
    assert max(measured["calico-confd"], measured["calico-libnetwork"]) <= LEAST_ISOLATED


@pytest.mark.parametrize("name", NAMES)
def test_a_service_is_started_again_for_ever(name: str) -> None:
    text = (UNITS / name).read_text()
    for line in ("StartLimitIntervalSec=0", "Restart=always", "RestartSec=2", "WantedBy=multi-user.target"):
        assert f"\n{line}\n" in text, line


@pytest.mark.parametrize("path", sorted((UNITS / "etc").glob("*.env")), ids=lambda path: path.name)
def test_variables_of_the_environment_files_exist(path: Path) -> None:
    known = {f"FELIX_{one.name.upper()}" for one in PARAMETERS} | {one.variable for one in SETTINGS} | OF_STARTUP
    named = VARIABLE.findall(path.read_text())
    assert named and set(named) <= known
    assert any(f"EnvironmentFile=-/etc/calico/{path.name}" in (UNITS / name).read_text() for name in NAMES)
    assert all(line.startswith("#") or not line for line in path.read_text().splitlines()), "sets nothing by itself"


def test_the_user_and_the_folder_of_the_sockets(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    sysusers = ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "calico.sysusers")]
    subprocess.run(sysusers, check=True, capture_output=True)
    user = next(line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines() if "calico" in line)
    assert user[0] == "calico" and user[5:] == ["/var/lib/calico", "/usr/sbin/nologin"]
    tmpfiles = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "calico.tmpfiles")]
    subprocess.run(tmpfiles, check=True, capture_output=True)
    mode = (tmp_path / "run/calico").stat()
    assert (oct(mode.st_mode & 0o7777), mode.st_uid) == ("0o755", 0)
