"""`make demo`: three hosts, three tasks, one policy, and BGP where BIRD is there. `--keep` leaves it standing, `--down`
removes what was kept.

Plays the bookstore's story (spec/scenarios.md S20, S21) against real etcd, real agents and the real kernel. Each step
prints its commands, what came of it, and how long it took. Exit 0 only if every expectation held.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from libcalico.testing.bird import has_bird
from tests.lab import kept
from tests.lab.bgp import Bgp
from tests.lab.cluster import ADDRESSES, Cluster, network_conf
from tests.lab.host import CommandFailed, cleanup_leftovers
from tests.lab.mesos import Task, TaskFailed

# The double i in the name is the story's own.
POLICY = """apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: allow-bookstore-cliient-to-server
spec:
  selector: biz_type == 'bookstore' && role == 'server'
  types: [Ingress]
  ingress:
  - action: Allow
    protocol: TCP
    source: {selector: biz_type == 'bookstore'}
    destination: {ports: [80]}
  - action: Deny
    protocol: TCP
    source: {selector: biz_type == 'fruitstore'}
    destination: {ports: [80]}
"""
TASKS = {
    "bookstore-frontend": ("a1", {"biz_type": "bookstore"}),
    "fruitstore-frontend": ("a1", {"biz_type": "fruitstore"}),
    "bookstore-server": ("a2", {"biz_type": "bookstore", "role": "server"}),
}
SERVER = "bookstore-server"
ROUTED_NET = "10.30.0.0/16"
ROUTED = f"""apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: routed
spec:
  cidr: {ROUTED_NET}
  natOutgoing: true
"""
ROUTED_TASKS = {"routed-client": "a1", "routed-server": "a2"}
DENIED = ("fruitstore-frontend", SERVER)
WIDTH = 100
OPENING = "m1, a1 and a2 are hosts, simulated here: m1 stores the data, a1 and a2 run tasks (containers)."
TIMES_OUT = 28
ANSWER_S, SILENCE_S, PROBE_S = 5.0, 2.0, 0.3
"""How long an answer is waited for, how long one that must not come, and one that is asked for again and again."""
PROVEN = (
    "tasks on two hosts reached each other; the policy let in by label alone, across hosts, and changed no other"
    " cell of the tables; an established connection lived on; deleting the policy restored everything"
)
PROVEN_OF_BGP = "; tasks of a pool without a tunnel reached each other by routes that BIRD brought"
NUMBER_OF_DENY = "1"
"""The policy's second rule: the kernel's rules carry numbers from 0 on."""
COUNTER = re.compile(r"counter packets ([0-9]+)")
Matrix = dict[tuple[str, str], str]


class Unexpected(Exception):
    """An expectation of the story did not hold."""


class Story:
    """The demo, step by step."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.tasks: dict[str, Task] = {}
        self.identity = ""

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print a step's title, and its time at the end."""
        print(f"\n\033[1m{title}\033[0m" if may_colour() else f"\n{title}", flush=True)
        started = time.monotonic()
        yield
        print(f"   done in {(time.monotonic() - started) * 1000:.0f} ms", flush=True)

    def play(self) -> None:
        """The whole story."""
        print(OPENING)
        self.boot()
        self.launch()
        before = self.before_policy()
        slow = self.open_connection()
        self.apply()
        after = self.under_policy(slow)
        self.delete()
        show_matrices(list(self.tasks), before, after)
        if has_bird():
            self.bgp()
        else:
            print("\n7. is left out: it needs BIRD (apt-get install bird2)")

    def boot(self) -> None:
        """etcd, startup and agent on every host."""
        with self.step("1. Start etcd, the data store, on m1, and Calico's agent on every host"):
            self.cluster.start()
            for name in self.cluster.hosts:
                print(f"   {name}  {ADDRESSES[name]}  its agent is ready")

    def launch(self) -> None:
        """Attach the tasks as a Mesos agent does."""
        with self.step("2. Start three tasks: each gets labels, and an address that all hosts reach"):
            for name, (host, labels) in TASKS.items():
                started = time.monotonic()
                self.tasks[name] = task = self.cluster.mesos(host).launch(name, labels=labels)
                taken = (time.monotonic() - started) * 1000
                shown = " ".join(f"{key}={value}" for key, value in labels.items())
                print(f"   {name:20} on {host}  {task.address:16} {shown:32} ready in {taken:.0f} ms")
            for machine in self.cluster.hosts.values():
                for task in self.tasks.values():
                    machine.run(["ping", "-c", "1", "-W", "5", task.address])
            print(f"   {', '.join(self.cluster.hosts)} each ping all three")

    def before_policy(self) -> Matrix:
        """Everybody reaches everybody."""
        with self.step("3. Before the policy: both frontends are answered by the server on the other host"):
            self.identity = self.expect("bookstore-frontend", allowed=True)
            if self.expect("fruitstore-frontend", allowed=True) != self.identity:
                raise Unexpected("the two frontends got different answers")
            return self.matrix()

    def open_connection(self) -> str:
        """A connection of the fruitstore that exists before the policy."""
        server, frontend = self.tasks[SERVER], self.tasks["fruitstore-frontend"]
        log = "/run/slow.log"
        script = "\n".join(
            [
                "import socket",
                f"connection = socket.create_connection(('{server.address}', 80))",
                "connection.sendall(b'GET /slow HTTP/1.0\\r\\n\\r\\n')",
                f"log = open('{log}', 'wb', 0)",
                "while True:",
                "    log.write(connection.recv(100))",
            ]
        )
        frontend.host.write("/run/slow.py", script)
        frontend.host.start([sys.executable, "-S", "/run/slow.py"], netns=frontend.netns)
        self.cluster.wait("the long connection", lambda: self._size(log) > 0)
        return log

    def _size(self, path: str) -> int:
        done = self.tasks["fruitstore-frontend"].host.run(f"stat -c %s {path}", check=False)
        return int(done.stdout or 0)

    def apply(self) -> None:
        """The policy goes in."""
        with self.step("4. calicoctl apply -f bookstore-policy.yaml"):
            self.cluster.hosts["m1"].write("/run/bookstore-policy.yaml", POLICY)
            print("   it lets bookstores reach the bookstore's server on port 80, and keeps fruitstores out:")
            print(textwrap.indent(POLICY.rstrip(), "   | "))
            self.calicoctl(
                "apply", "-f", "/run/bookstore-policy.yaml", "Successfully applied 1 'NetworkPolicy' resource(s)"
            )

    def calicoctl(self, *words: str) -> None:
        """Run calicoctl and expect its last word on stdout."""
        *command, expected = words
        started = time.monotonic()
        done = self.cluster.calicoctl(*command)
        print(f"   m1# calicoctl {' '.join(command)}   ({(time.monotonic() - started) * 1000:.0f} ms)")
        print(f"   {done.stdout.strip()}")
        if done.stdout.strip() != expected:
            raise Unexpected(f"calicoctl said {done.stdout!r}, expected {expected!r}")

    def under_policy(self, slow_log: str) -> Matrix:
        """Bookstore yes, fruitstore no; what was connected stays connected."""
        with self.step("5. Under the policy: bookstore-frontend is answered, fruitstore-frontend is not"):
            started = time.monotonic()
            self.cluster.wait_programmed(TASKS[SERVER][0])
            self.cluster.wait("the policy", lambda: self.fetch("fruitstore-frontend", PROBE_S)[0] == TIMES_OUT)
            taken = (time.monotonic() - started) * 1000
            print(f"   {DENIED[0]} asked until it was not answered: that took {taken:.0f} ms, with requests that")
            print(f"   wait {PROBE_S * 1000:.0f} ms each")
            if self.expect("bookstore-frontend", allowed=True) != self.identity:
                raise Unexpected("the server answered with another id")
            self.expect("fruitstore-frontend", allowed=False)
            self.show_denying_rule()
            size = self._size(slow_log)
            self.cluster.wait("the established connection to go on", lambda: self._size(slow_log) > size)
            print(f"   {DENIED[0]}'s connection, opened before the policy, goes on: a policy judges new ones")
            print(
                f"   now every task asks every other, for the tables below; {SILENCE_S:.0f} s without an answer is a no"
            )
            return self.matrix()

    def show_denying_rule(self) -> None:
        """The rule in the server's host that dropped the packets, with its counter."""
        host = TASKS[SERVER][0]
        listing = self.cluster.hosts[host].run(["nft", "list", "table", "inet", "calico"]).stdout
        name = "allow-bookstore-cliient-to-server"
        rules = [line.strip() for line in listing.splitlines() if f'{name}|default|ingress|{NUMBER_OF_DENY}"' in line]
        counted = [int(found[1]) for rule in rules if (found := COUNTER.search(rule))]
        if not sum(counted):
            raise Unexpected(f"no packet met the rule that denies: {rules}")
        print(
            f"   {sum(counted)} packets were dropped by the policy's second rule, in {host}'s kernel (nft list table):"
        )
        for rule in (rule for rule in rules if "packets 0 " not in rule):
            print(textwrap.fill(rule, WIDTH, initial_indent="   | ", subsequent_indent="   |   "))
        print("   (in its comment: policy, tier, direction, and the rule's number, counted from 0)")

    def delete(self) -> None:
        """The policy goes, and all is as before."""
        with self.step("6. calicoctl delete -f bookstore-policy.yaml restores everything"):
            self.calicoctl(
                "delete", "-f", "/run/bookstore-policy.yaml", "Successfully deleted 1 'NetworkPolicy' resource(s)"
            )
            self.cluster.wait("access again", lambda: self.fetch("fruitstore-frontend", PROBE_S)[0] == 0)
            self.expect("fruitstore-frontend", allowed=True)
            if set(self.matrix().values()) != {"yes"}:
                raise Unexpected("not everybody reaches everybody after the policy is gone")
            print("   and every task is answered by every other, as before")

    def bgp(self) -> None:
        """A pool without encapsulation: BIRD carries its routes from host to host."""
        with self.step("7. A second pool, without any tunnel: BIRD tells the hosts of each other's addresses by BGP"):
            self.cluster.hosts["m1"].write("/run/routed-pool.yaml", ROUTED)
            self.calicoctl("apply", "-f", "/run/routed-pool.yaml", "Successfully applied 1 'IPPool' resource(s)")
            Bgp(self.cluster)
            print("   dcos-calico-confd and BIRD run on every host")
            network = network_conf("routed", etcd_endpoints=self.cluster.etcd.endpoints)
            network["ipam"]["ipv4_pools"] = [ROUTED_NET]
            for name, host in ROUTED_TASKS.items():
                mesos = self.cluster.mesos(host)
                mesos.add_network(network)
                self.tasks[name] = task = mesos.launch(name, network="routed")
                print(f"   {name:20} on {host}  {task.address}")
            client, server = (self.tasks[name] for name in ROUTED_TASKS)
            self.cluster.wait("a route by BGP", lambda: client.fetch(server.address, timeout_s=PROBE_S)[0] == 0)
            routes = client.host.run(["ip", "route", "show", "proto", "bird"]).stdout.splitlines()
            if not any(ADDRESSES[server.host.name] in route for route in routes):
                raise Unexpected(f"no route of BIRD leads to {server.host.name}: {routes}")
            print(f"   {client.host.name}# ip route show proto bird")
            print(textwrap.indent("\n".join(map(str.rstrip, routes)), "   | "))
            print(f"   {client.name} asks http://{server.address}/id: answered, through no tunnel")

    def fetch(self, client: str, timeout_s: float) -> tuple[int, str]:
        """A request to the server."""
        return self.tasks[client].fetch(self.tasks[SERVER].address, timeout_s=timeout_s)

    def expect(self, client: str, allowed: bool) -> str:
        """A request that must get through, or must time out."""
        started = time.monotonic()
        status, body = self.fetch(client, ANSWER_S if allowed else SILENCE_S)
        taken = (time.monotonic() - started) * 1000
        shown = {0: "answered", TIMES_OUT: "timed out", 7: "REFUSED"}.get(status, f"exit {status}")
        print(f"   {client} asks http://{self.tasks[SERVER].address}/id: {shown} ({taken:.0f} ms)")
        if (status == 0) != allowed or (not allowed and status != TIMES_OUT):
            raise Unexpected(f"{client}: {shown}, expected {'an answer' if allowed else 'a time-out'}")
        return body

    def matrix(self) -> Matrix:
        """Who reaches whom now."""
        words = {0: "yes", TIMES_OUT: "no"}
        return {
            (one, other): words.get(self.tasks[one].fetch(self.tasks[other].address, timeout_s=SILENCE_S)[0], "?")
            for one in self.tasks
            for other in self.tasks
            if one != other
        }


def show_matrices(names: list[str], before: Matrix, after: Matrix) -> None:
    """Both tables, one under the other."""
    width = max(map(len, names)) + 2
    for title, matrix in (
        ("before the policy (does the task of the row reach the one of the column?)", before),
        ("under the policy (>no< is what it has changed)", after),
    ):
        print(f"\n   {title}")
        print(("   " + "".ljust(width) + "".join(name.ljust(width) for name in names)).rstrip())
        for one in names:
            cells = [cell_text(matrix.get((one, other), ""), before.get((one, other), "")) for other in names]
            print(("   " + one.ljust(width) + "".join(cell.ljust(width) for cell in cells)).rstrip())
    for pair, cell in after.items():
        if (cell == "yes") == (pair == DENIED):
            raise Unexpected(f"{pair[0]} -> {pair[1]}: {cell or 'nothing'} under the policy")
    if set(before.values()) != {"yes"}:
        raise Unexpected(f"not everybody reached everybody before the policy: {before}")


def cell_text(cell: str, former: str) -> str:
    """A cell of the table, marked where it differs from the table before."""
    if cell == former:
        return cell
    return f">{cell}<"


def may_colour() -> bool:
    """A terminal that shows bold text, and nobody who has asked for none (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def run(keep: bool) -> int:
    """Play, then keep or clean up."""
    kept.remove()
    cleanup_leftovers()
    started = time.monotonic()
    cluster = Cluster(keep=keep)
    done = False
    try:
        story = Story(cluster)
        story.play()
        done = True
        proven = PROVEN + (PROVEN_OF_BGP if has_bird() else "")
        print()
        print(textwrap.fill(f"All was as expected, in {time.monotonic() - started:.1f} s: {proven}.", WIDTH))
        if keep:
            kept.keep(cluster)
        return 0
    except (Unexpected, TaskFailed, CommandFailed) as error:
        print(f"\nFAILED: {error}\n{cluster.dump()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: cleaning up", file=sys.stderr)
        raise
    finally:
        if not (keep and done):
            cluster.close()


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP of a terminal that was closed, handled as Ctrl-C is."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="demo", description="the bookstore on three hosts")
    parser.add_argument("--keep", action="store_true", help="leave the hosts standing")
    parser.add_argument("--down", action="store_true", help="remove a demo that was kept")
    parser.add_argument(
        "--task", type=kept.task_name, metavar="NAME", help="start one more task in the demo that was kept"
    )
    parser.add_argument("--on", choices=("m1", "a1", "a2"), help="the task's host; else a1")
    parser.add_argument(
        "--label",
        type=kept.label,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a label of the task; may be given again",
    )
    parser.add_argument("--matrix", action="store_true", help="print who reaches whom in the demo that was kept")
    parser.add_argument(
        "--shell",
        choices=("m1", "a1", "a2", "x1"),
        help="a shell on a host of the demo that was kept; x1 is a machine outside the cluster",
    )
    parser.add_argument("--run", default="", metavar="COMMAND", help="with --shell: run this command there instead")
    arguments = parser.parse_args(words)
    if (arguments.on or arguments.label) and not arguments.task:
        parser.error("--on and --label go with --task NAME")
    return arguments


def main() -> int:
    """Returns the exit status."""
    arguments = parse()
    try:
        if arguments.down:
            return kept.down()
        if arguments.task:
            return kept.launch(kept.load(), arguments.on or "a1", arguments.task, dict(arguments.label))
        if arguments.shell:
            return kept.enter(kept.load(), arguments.shell, arguments.run)
        if arguments.matrix:
            return kept.matrix(kept.load())
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _terminate)
        return run(arguments.keep)
    except kept.Refused as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    except BrokenPipeError:  # the reader has seen enough; what is still buffered must not fail at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
