"""docs/howto/install-systemd.md, pasted block by block into the root shells of two new hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.host import connect
from tests.lab.systemd import CLONE, SystemdHost
from tests.packaging.deb_host import NOW, wait

PAGE = CLONE / "docs/howto/install-systemd.md"
BLOCK = re.compile(r"^```sh (both|h1|h2)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESSES = {"h1": "10.20.0.21", "h2": "10.20.0.22"}
PING = re.compile(r"^(?:WEB=|ip netns exec client ping -c 3).*\n", re.MULTILINE)
SESSIONS = "calicoctl node status"

pytestmark = pytest.mark.usefixtures("debian")


@pytest.fixture
def hosts(debs: Mapping[str, Path]) -> Iterator[dict[str, SystemdHost]]:
    """Two new machines on one cable, with the packages in /root/deb. What the page installs from Debian is in their
    root already: they have no network to get it from."""
    with SystemdHost("h1") as one, SystemdHost("h2") as two:
        connect(one, "eth0", two, "eth0")
        found = {"h1": one, "h2": two}
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(SystemdHost.boot, found.values()))
        for name, host in found.items():
            host.run(f"ip address add {ADDRESSES[name]}/24 dev eth0 && ip route add default via 10.20.0.1")
            host.run(f"cp -r {debs[NOW]} /root/deb")
            host.run("systemctl unmask etcd bird")
        yield found


def paste(host: SystemdHost, block: str) -> str:
    """A block's output; a command that fails in the middle is one that the reader sees fail."""
    environment = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "dumb"}
    return host.run(["bash", "-ec", block], environment=environment, timeout_s=120).stdout


def test_two_hosts_from_nothing_by_the_page_alone(hosts: dict[str, SystemdHost]) -> None:
    said: dict[str, str] = {"h1": "", "h2": ""}
    for where, block in BLOCK.findall(PAGE.read_text()):
        for name in ("h1", "h2") if where == "both" else (where,):
            said[name] += paste(hosts[name], block)
    assert re.search(r"^h1 +\(64512\) +10\.20\.0\.21/24 *$", said["h1"], re.MULTILINE)
    assert re.search(r"^h2 +\(64512\) +10\.20\.0\.22/24 *$", said["h1"], re.MULTILINE)
    assert "3 packets transmitted, 3 received" in said["h1"], "a container on the other host answers"
    assert re.findall(r"^(it answers|no answer)$", said["h1"], re.MULTILINE) == ["no answer", "it answers"]
    h1, routes = hosts["h1"], "ip route show proto bird"
    wait(lambda: "Established" in h1.run(SESSIONS, check=False).stdout, "BIRD has its session")
    wait(lambda: "via 10.20.0.22 dev eth0" in h1.run(routes).stdout, "its routes")
    assert "3 packets transmitted, 3 received" in paste(h1, "".join(PING.findall(PAGE.read_text())[:2]))
    h1.systemctl("restart", "calico-bird")
    assert "via 10.20.0.22 dev eth0" in h1.run(routes).stdout, "a restart of BIRD takes no route away"
