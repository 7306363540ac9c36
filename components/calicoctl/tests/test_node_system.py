"""`calicoctl node checksystem` and `node run`."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from calicoctl.commands import node_checksystem, node_run
from calicoctl.main import main

ALL = "".join(f"{one.option}=m\n" for one in (*node_checksystem.FEATURES, *node_checksystem.TUNNELS))


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def _kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, name: str = "config") -> str:
    """A kernel of which only this configuration is known."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(config.encode()) if name.endswith(".gz") else config.encode())
    read = node_checksystem._text
    monkeypatch.setattr(node_checksystem, "_text", lambda place: read(place) if place == str(path) else "")
    return str(path)


@pytest.mark.parametrize("name", ["config", "config.gz"])
def test_a_kernel_that_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["node", "checksystem", "-f", _kernel(tmp_path, monkeypatch, ALL, name)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Checking kernel version..." and lines[2] == "Checking kernel modules..."
    assert lines[3] == "\t\tnf_tables           \t\t\t\t\tOK"
    assert lines[-1] == "System meets minimum system requirements to run Calico!" and len(lines) == 13


def test_a_kernel_without_tunnels_does_and_one_without_nat_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ALL.replace("CONFIG_VXLAN=m", "# CONFIG_VXLAN is not set")
    assert main(["node", "checksystem", "-f", _kernel(tmp_path, monkeypatch, config)]) == 0
    warning = "WARNING: Unable to detect the vxlan module as Loaded/Builtin module or lsmod (only pools with vxlanMode"
    assert warning in capsys.readouterr().out
    config = ALL.replace("CONFIG_NFT_NAT=m", "")
    assert main(["node", "checksystem", "-f", _kernel(tmp_path, monkeypatch, config)]) == 1
    out, err = capsys.readouterr()
    assert "\t\tnft_nat             \t\t\t\t\tFAIL\nWARNING: Unable to detect the nft_nat module" in out
    assert err == "system doesn't meet one or more minimum systems requirements to run Calico\n"


def test_a_configuration_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "checksystem", "-f", "/nowhere"]) == 1
    assert "cannot read the kernel's configuration /nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("release", "is_new"),
    [("6.1.0-13-amd64", True), ("5.6", True), ("5.5.19", False), ("4.19.0", False), ("10.0", True), ("x", False)],
)
def test_releases(release: str, is_new: bool) -> None:
    assert node_checksystem._is_new_enough(release) is is_new


def test_run_prints_what_would_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_run, "FILES", ("/nowhere/calico.env", "/nowhere/felix.env"))
    words = ["--ip=10.0.0.1/24", "--as=64512", "--backend=bird", "--no-default-ippools", "--name", "a b"]
    assert main(["node", "run", "--dryrun", *words]) == 0
    assert capsys.readouterr().out == (
        "Use the following commands to start the services of this node:\n\n"
        "echo IP=10.0.0.1/24 >> /nowhere/felix.env\necho AS=64512 >> /nowhere/felix.env\n"
        "echo 'NODENAME=a b' >> /nowhere/felix.env\necho CALICO_NETWORKING_BACKEND=bird >> /nowhere/felix.env\n"
        "echo NO_DEFAULT_POOLS=true >> /nowhere/felix.env\nsystemctl restart calico-felix calico-confd calico-bird\n"
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--ip=fd00::1"], "--ip is wrong IP version"), (["--ip6=10.0.0.1"], "--ip6 is wrong IP version"),
        (["--ip=x"], "--ip x is no IP address: write it as in 10.0.0.1 or 10.0.0.1/24"),
        (["--ip-autodetection-method=guess"], "invalid IP autodetection method: guess"),
        (["--backend=gobgp"], "unknown backend 'gobgp'"),
    ],
)  # fmt: skip
def test_run_refuses(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "run", *words]) == 1
    assert capsys.readouterr().err == f"error executing command: {reason}\n"


@pytest.mark.parametrize(("value", "is_well"), [("64512", True), ("1.5", True), ("x", False), ("4294967296", False)])
def test_as_numbers(value: str, is_well: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "run", "--dryrun", f"--as={value}"]) == (0 if is_well else 1)
    text = capsys.readouterr().out
    assert is_well or text == f"Error executing command: invalid AS Number specified: {value}\n"


def test_run_starts_nothing_with_settings_that_the_files_do_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "felix.env"
    started: list[list[str]] = []
    monkeypatch.setattr(node_run, "FILES", (str(file), str(file)))
    monkeypatch.setattr(node_run, "_start", started.append)
    assert main(["node", "run", "--ip=10.0.0.1"]) == 1
    assert "add IP=10.0.0.1 there" in capsys.readouterr().err and not started
    file.write_text("IP=10.0.0.1\n")
    assert main(["node", "run", "--ip=10.0.0.1"]) == 0
    assert started == [["calico-felix"]]
