"""Elements written by netlink batches are those that libnftables would have written, and both may take turns."""

from __future__ import annotations

import errno
import ipaddress
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from libcalico.kernel.errors import KernelError
from libcalico.kernel.nft import Nft
from libcalico.kernel.nft_batches import NftBatches
from libcalico.testing.machine import namespace_name
from tests.netns.listing import normal

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

STEPS = 80
PORTS4, PORTS6 = (f"ipv{family}_addr . inet_proto . inet_service" for family in (4, 6))
SETS = {
    "hash4": ("ipv4_addr", False), "hash6": ("ipv6_addr", False), "nets4": ("ipv4_addr", True),
    "nets6": ("ipv6_addr", True),
    "ports4": (PORTS4, False), "ports6": (PORTS6, False), "dispatch": ("ifname : verdict", False),
}  # fmt: skip


def _word(kind: str) -> str:
    return "map" if "verdict" in kind else "set"


def _declaration(kind: str, interval: bool) -> str:
    return f"type {kind};{' flags interval;' if interval else ''}"


DECLARATIONS = "\n".join(
    ["add table inet calico", *(f"add chain inet calico c{n}" for n in range(3))]
    + [f"add {_word(kind)} inet calico {name} {{ {_declaration(*SETS[name])} }}" for name, (kind, _) in SETS.items()]
)


class Kernel:
    """A namespace with the sets, empty."""

    def __init__(self) -> None:
        self.name = namespace_name("elem")
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.nft = Nft(f"/run/netns/{self.name}")
        self.batches = NftBatches("calico", f"/run/netns/{self.name}")
        self.nft.run(DECLARATIONS)

    def listing(self) -> list[str]:
        return normal(self.nft.run("list table inet calico"))

    def by_text(self, name: str, removed: set[str], added: set[str]) -> None:
        lines = [f"delete element inet calico {name} {{ {', '.join(removed)} }}"] if removed else []
        lines += [f"add element inet calico {name} {{ {', '.join(added)} }}"] if added else []
        if lines:
            self.nft.run("\n".join(lines))

    def close(self) -> None:
        self.batches.close()
        self.nft.close()
        subprocess.run(["ip", "netns", "del", self.name], check=False)


@pytest.fixture
def kernels(root: None) -> Iterator[list[Kernel]]:
    made = [Kernel(), Kernel()]
    yield made
    for kernel in made:
        kernel.close()


def random_elements(dice: random.Random, name: str) -> set[str]:
    kind, interval = SETS[name]
    count = dice.choice((0, 1, 2, 20, 200))
    if kind == "ifname : verdict":
        return {f'"cali{n}" : jump c{n % 3}' for n in dice.sample(range(300), count)}
    family = 4 if "ipv4" in kind else 6
    bits, spread = (32, 0x0A000000) if family == 4 else (128, 0xFD << 120)
    at = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    numbers = [spread + dice.randrange(600) for _ in range(count)]
    if not interval:
        text = [str(at(number)) for number in numbers]
        if " . " not in kind:
            return set(text)
        return {f"{one} . {dice.choice(('tcp', 'udp', 'sctp'))} . {dice.randrange(1, 65536)}" for one in text}
    network = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
    nets = [network((number, bits - dice.randrange(8)), strict=False) for number in numbers]
    if dice.random() < 0.2:
        nets.append(network(((1 << bits) - 1, dice.choice((bits, bits - 9, 1))), strict=False))
    if dice.random() < 0.2:
        nets.append(network((0, dice.choice((bits, bits - 9, 3))), strict=False))
    return {str(net).removesuffix(f"/{bits}") for net in ipaddress.collapse_addresses(nets)}  # type: ignore[type-var]


def test_batches_and_libnftables_take_turns(kernels: list[Kernel], request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--seed") or time.time_ns() % 1_000_000_000
    print(f"--seed={seed}")
    dice = random.Random(seed)
    ours, oracle = kernels
    standing: dict[str, set[str]] = {name: set() for name in SETS}
    for step in range(STEPS):
        changes = []
        for name in dice.sample(sorted(SETS), dice.randrange(1, 4)):
            wanted, had = random_elements(dice, name), standing[name]
            if dice.random() < 0.3:
                ours.by_text(name, had - wanted, wanted - had)
            else:
                changes += [
                    (False, name, *SETS[name], sorted(had - wanted)),
                    (True, name, *SETS[name], sorted(wanted - had)),
                ]
            standing[name] = wanted
            oracle.nft.run(f"flush {'map' if name == 'dispatch' else 'set'} inet calico {name}")
            oracle.by_text(name, set(), wanted)
        assert ours.batches.commit(changes)
        assert ours.listing() == oracle.listing(), f"seed {seed}, step {step}"


def test_one_refused_element_leaves_all_as_it_was(kernels: list[Kernel]) -> None:
    kernel = kernels[0]
    assert kernel.batches.commit([(True, "hash4", "ipv4_addr", False, ["10.0.0.1"])])
    before = kernel.listing()
    with pytest.raises(KernelError, match=r"hash6.*[Nn]o such file"):
        kernel.batches.commit([
            (True, "hash4", "ipv4_addr", False, ["10.0.0.2"]),
            (False, "hash6", "ipv6_addr", False, ["fd00::9"]),
            (True, "nets4", "ipv4_addr", True, ["10.0.0.0/8"]),
        ])  # fmt: skip
    assert kernel.listing() == before
    assert kernel.batches.commit([(True, "hash4", "ipv4_addr", False, ["10.0.0.2"])]), (
        "the socket has no old answers left"
    )
    with pytest.raises(KernelError, match="set gone"):
        kernel.batches.commit([(True, "gone", "ipv4_addr", False, ["10.0.0.2"])])


def test_answers_of_a_batch_that_were_not_read_are_nobody_elses(
    kernels: list[Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = kernels[0]
    wrong = [(False, "hash4", "ipv4_addr", False, ["10.0.0.9"])]
    with monkeypatch.context() as patch:
        patch.setattr(kernel.batches, "_read_answers", raise_no_space)
        with pytest.raises(KernelError, match="No buffer space"):
            kernel.batches.commit(wrong)
    assert kernel.batches.commit([(True, "hash4", "ipv4_addr", False, ["10.0.0.1"])])
    with pytest.raises(KernelError, match="hash4"):
        kernel.batches.commit(wrong)


def raise_no_space(_names: list[str]) -> None:
    raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def test_what_a_batch_cannot_do_is_left_to_libnftables(kernels: list[Kernel]) -> None:
    kernel = kernels[0]
    before = kernel.listing()
    assert not kernel.batches.commit([
        (True, "hash4", "ipv4_addr", False, ["10.0.0.2"]),
        (True, "macs", "ether_addr", False, ["00:00:00:00:00:01"]),
    ])  # fmt: skip
    assert kernel.listing() == before


def test_a_batch_that_the_socket_cannot_send_is_left_to_libnftables(kernels: list[Kernel]) -> None:
    kernel = kernels[0]
    before = kernel.listing()
    kernel.batches._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)
    many = [f"10.{n >> 8}.{n & 255}.1" for n in range(20_000)]
    assert not kernel.batches.commit([(True, "hash4", "ipv4_addr", False, many)])
    assert kernel.listing() == before
    assert kernel.batches.commit([(True, "hash4", "ipv4_addr", False, many[:5])])


def test_a_large_set_is_one_transaction(kernels: list[Kernel]) -> None:
    kernel = kernels[0]
    nets = [f"{10 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/25" for n in range(50_000)]
    assert kernel.batches.commit([(True, "nets4", "ipv4_addr", True, nets)])
    held = kernel.nft.run("list set inet calico nets4").count("/25")
    assert held == len(nets)
    assert kernel.batches.commit([(False, "nets4", "ipv4_addr", True, nets[:-1])])
    assert kernel.nft.run("list set inet calico nets4").count("/25") == 1
