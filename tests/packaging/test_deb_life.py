"""A host's life with the packages, under real systemd: installed, configured, used, upgraded, removed, purged."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.packaging.deb_host import ETCD, NEXT, NOW, POLICY, DebHost, Ping, wait

UNITS = ("calico-felix", "calico-confd", "calico-bird", "calico-libnetwork")
PACKAGES = "calico calico-felix calico-cni calicoctl calico-bird calico-libnetwork calico-common"
TABLE = "nft list table inet calico"

pytestmark = pytest.mark.usefixtures("debian")


@pytest.fixture(scope="module")
def installed(debs: Mapping[str, Path]) -> Iterator[SimpleNamespace]:
    """A host with the packages, its services up, three containers: of `client` and `server` all is let in, `shut` lets
    nothing in. `fresh` is what the units were before anything was configured."""
    with DebHost("deb") as host:
        host.boot()
        host.start_etcd()
        words = host.install(debs[NOW])
        fresh = host.states(UNITS)
        host.configure()
        ready_s = host.start_units(*UNITS)
        host.calicoctl("apply", "-f", "-", stdin=POLICY)
        addresses = {name: host.container(name, role) for name, role in ROLES.items()}
        yield SimpleNamespace(host=host, words=words, fresh=fresh, ready_s=ready_s, addresses=addresses)


ROLES = {"client": "open", "server": "open", "shut": "closed"}


def test_installing_starts_nothing_and_is_whole(installed: SimpleNamespace) -> None:
    assert installed.fresh == [("disabled", "inactive")] * len(UNITS)
    host: DebHost = installed.host
    changed = host.run("dpkg --audit; dpkg --verify " + PACKAGES).stdout.splitlines()
    assert sorted(line.split()[-1] for line in changed) == ["/etc/calico/calico.env", "/etc/calico/felix.env"]
    assert "warning" not in installed.words.lower(), installed.words
    wait(lambda: host.states(UNITS) == [("enabled", "active")] * len(UNITS), "all services run")


def test_the_agent_is_ready_when_the_kernel_enforces_and_says_what_it_does(installed: SimpleNamespace) -> None:
    host: DebHost = installed.host
    host.run(TABLE)
    shown = host.show("calico-felix", "Type", "StatusText", "WatchdogUSec")
    assert shown == {"Type": "notify", "StatusText": f"datastore {ETCD}: in sync", "WatchdogUSec": "1min 30s"}


def test_containers_are_attached_and_judged_by_the_sandboxed_agent(installed: SimpleNamespace) -> None:
    host: DebHost = installed.host
    for name, answered in (("server", True), ("shut", False)):
        done = host.run(["ping", "-c1", "-W1", installed.addresses[name]], netns="/run/netns/client", check=False)
        assert (done.returncode == 0) is answered, name


def test_a_namespace_that_is_deleted_is_not_held_by_the_agent(installed: SimpleNamespace) -> None:
    """Its mounts are a copy of the host's: what is unmounted there has to go here, too."""
    host: DebHost = installed.host
    host.container("brief", "open")
    assert "calibrief" in host.run("ip -o link").stdout
    host.run("ip netns del brief")
    wait(lambda: "calibrief" not in host.run("ip -o link").stdout, "its interface goes with it")
    host.cni("DEL", "brief")


def test_bird_runs_as_a_user_of_its_own_with_what_confd_wrote(installed: SimpleNamespace) -> None:
    host: DebHost = installed.host
    file = "/etc/calico/confd/config/bird.cfg"
    wait(lambda: host.run(["test", "-s", file], check=False).returncode == 0, "the file is written")
    assert host.run(["stat", "-c", "%U %G %a", file]).stdout == "root calico 640\n"
    wait(
        lambda: "Daemon is up" in host.run("birdcl -s /run/calico/bird.ctl show status", check=False).stdout,
        "BIRD is up",
    )
    status = host.run(["cat", f"/proc/{host.main_pid('calico-bird')}/status"]).stdout
    user = host.run("id -u calico").stdout.strip()
    assert f"Uid:\t{user}\t{user}\t{user}\t{user}\n" in status
    before = host.journal("calico-bird").count("Reconfigured")
    host.calicoctl("apply", "-f", "-", stdin=PEER)
    wait(lambda: host.journal("calico-bird").count("Reconfigured") > before, "BIRD reads the new file")
    assert "10.7.0.9" in host.run("birdcl -s /run/calico/bird.ctl show protocols all").stdout


PEER = """
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: router}
spec: {peerIP: 10.7.0.9, asNumber: 64999}
"""


def test_dockers_plug_in_answers_in_its_sandbox(installed: SimpleNamespace) -> None:
    host: DebHost = installed.host
    served = "test -S /run/docker/plugins/calico.sock && test -S /run/docker/plugins/calico-ipam.sock"
    wait(lambda: host.run(served, check=False).returncode == 0, "both sockets are served")
    answer = host.run(["/usr/lib/calico/bin/python3", "-c", ACTIVATE]).stdout
    assert "NetworkDriver" in answer and "IpamDriver" in answer, answer


ACTIVATE = """
import socket
door = socket.socket(socket.AF_UNIX)
door.connect("/run/docker/plugins/calico.sock")
door.sendall(b"POST /Plugin.Activate HTTP/1.0\\r\\nContent-Length: 0\\r\\n\\r\\n")
print(door.makefile().read())
"""


def test_a_frozen_agent_is_started_again_by_the_watchdog(installed: SimpleNamespace) -> None:
    host: DebHost = installed.host
    host.write("/run/systemd/system/calico-felix.service.d/quick.conf", "[Service]\nWatchdogSec=2\n")
    host.systemctl("daemon-reload")
    host.systemctl("restart", "calico-felix")
    frozen = host.main_pid("calico-felix")
    host.run(["kill", f"-{signal.SIGSTOP.value}", str(frozen)])
    wait(lambda: host.main_pid("calico-felix") not in (0, frozen), "another one runs")
    host.run("rm -r /run/systemd/system/calico-felix.service.d && systemctl daemon-reload")
    host.systemctl("restart", "calico-felix")


def test_policy_and_traffic_stand_during_the_upgrade(installed: SimpleNamespace, debs: Mapping[str, Path]) -> None:
    host: DebHost = installed.host
    before = {unit: host.main_pid(unit) for unit in UNITS}
    flow, denied = (Ping(host, "client", installed.addresses[name]) for name in ("server", "shut"))
    host.install(debs[NEXT])
    assert host.states(UNITS) == [("enabled", "active")] * len(UNITS)
    passed, stopped = flow.stop(), denied.stop()
    assert passed.sent > 100 and passed.answered == passed.sent
    assert stopped.sent > 100 and stopped.answered == 0
    after = {unit: host.main_pid(unit) for unit in UNITS}
    assert {unit for unit in UNITS if before[unit] != after[unit]} == {
        "calico-felix",
        "calico-confd",
        "calico-libnetwork",
    }
    assert f"ETCD_ENDPOINTS={ETCD}" in host.read("/etc/calico/calico.env"), "files of the host's owner stay"
    assert host.container("later", "open")


def test_etcd_that_is_away_keeps_nobody_waiting_and_is_found_again(installed: SimpleNamespace) -> None:
    host: DebHost = installed.host
    host.run("pkill -STOP -x etcd")
    host.systemctl("restart", "calico-felix", check=False)
    assert host.show("calico-felix", "ActiveState")["ActiveState"] == "activating", "it is tried again"
    host.run(TABLE)
    host.run("pkill -CONT -x etcd")
    wait(lambda: host.show("calico-felix", "ActiveState")["ActiveState"] == "active", "it is up again")


def test_removed_policy_stands_and_purged_nothing_is_left(installed: SimpleNamespace) -> None:
    host: DebHost = installed.host
    host.run("nft add table ip others && nft add chain ip others DOCKER-USER")
    host.run("nft add rule ip others DOCKER-USER iifname 'cali*' accept comment "
             "'\"calico-felix: workloads are judged in table inet calico\"'")  # fmt: skip
    host.run("nft add rule ip others DOCKER-USER accept comment '\"of others\"'")
    flow, denied = (Ping(host, "client", installed.addresses[name]) for name in ("server", "shut"))
    host.run(f"dpkg -r {PACKAGES} 2>&1", timeout_s=120)
    passed, stopped = flow.stop(), denied.stop()
    assert passed.answered == passed.sent > 0 == stopped.answered
    host.run(TABLE)
    assert host.run("ls /etc/calico").stdout.split() == [
        "calico.env",
        "confd",
        "confd.env",
        "felix.env",
        "libnetwork.env",
    ]
    assert host.run("ls /usr/lib/calico", check=False).returncode != 0, "no compiled file of Python is left"
    host.run(f"dpkg -P {PACKAGES} 2>&1", timeout_s=120)
    rules = host.run("nft list ruleset").stdout
    assert "calico" not in rules and "of others" in rules
    assert host.run("ip route show table all proto 80; ip -o link show type vxlan").stdout == ""
    left = "ls -d /etc/calico /var/lib/calico /run/calico /usr/lib/calico /etc/systemd/system/*calico* 2>/dev/null"
    assert host.run(left, check=False).stdout == ""
    assert host.run("dpkg-query -W 'calico*'", check=False).stdout == ""
