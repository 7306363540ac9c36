"""Which MTU workloads get, and the file that says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from calico_felix.dataplane.mtu import HOST_INTERFACES, MtuFile, host_mtu, workload_mtu
from libcalico.conventions import IPIP_DEVICE, VXLAN_DEVICES
from libcalico.kernel.objects import Link

V4, V6, IPIP = VXLAN_DEVICES[4], VXLAN_DEVICES[6], IPIP_DEVICE


def link(index: int, name: str, mtu: int, up: bool = True) -> Link:
    return Link(index, name, up, True, mtu, "")


@pytest.mark.parametrize(
    ("links", "wanted"),
    [
        ((link(2, "eth0", 9000), link(3, "ens5", 1500), link(4, "docker0", 1400), link(5, "cali1", 1300)), 1500),
        ((link(2, "eth0", 9000), link(3, "eth1", 1500, up=False)), 9000),
        ((link(9, "bond0", 8000), link(3, "docker0", 1400)), 8000),
        ((link(3, "docker0", 1400),), 0),
        ((), 0),
    ],
    ids=["the smallest", "down", "none matches: the default route's", "none at all", "no interface"],
)
def test_the_hosts_mtu(links: tuple[Link, ...], wanted: int) -> None:
    assert host_mtu(links, HOST_INTERFACES, 9) == wanted


@pytest.mark.parametrize(
    ("host", "tunnels", "wanted"),
    [
        (1500, {}, 1500), (1500, {V4: 1450}, 1450), (1500, {V4: 0}, 1450), (1500, {V4: 1450, V6: 0}, 1430),
        (1500, {IPIP: 0}, 1480), (1500, {IPIP: 1480, V4: 1450}, 1450),
        (0, {V4: 1400}, 1400), (0, {}, 0), (0, {V4: 0}, 0), (60, {}, 0),
    ],
)  # fmt: skip
def test_the_workloads_mtu(host: int, tunnels: dict[str, int], wanted: int) -> None:
    assert workload_mtu(host, tunnels) == wanted


def test_the_file_is_written_when_it_says_something_else(tmp_path: Path) -> None:
    path = tmp_path / "calico" / "mtu"
    file = MtuFile(str(path))
    file.write(0)
    assert not path.exists(), "nothing is known"
    for mtu in (1450, 1500):
        file.write(mtu)
        assert path.read_text().strip() == str(mtu)
    assert path.stat().st_mode & 0o777 == 0o644
    inode = path.stat().st_ino
    file.write(1500)
    assert path.stat().st_ino == inode
    path.write_text("9\n")
    file.write(1500)
    assert path.read_text() == "1500\n"
    assert [one.name for one in path.parent.iterdir()] == ["mtu"], "and nothing else is left there"


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "mtu"
    file = MtuFile(str(path))
    file.write(1400)
    path.unlink()
    os.mkfifo(path)
    file.write(1400)
    assert path.read_text() == "1400\n"


def test_a_file_that_cannot_be_written_is_a_problem_until_it_can(tmp_path: Path) -> None:
    place = tmp_path / "calico"
    place.write_text("")
    file = MtuFile(str(place / "mtu"))
    file.write(1450)
    assert "the MTU of new workloads is not 1450" in file.problem
    place.unlink()
    file.write(1450)
    assert file.problem == "" and (place / "mtu").exists()
