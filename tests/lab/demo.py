"""`make demo`: three hosts, three tasks, one policy. `--keep` leaves it standing, `--down` removes what was kept.

Plays the bookstore's story (spec/scenarios.md S20, S21) against real etcd, real agents and the real kernel. Each step
prints its commands, what came of it, and how long it took. Exit 0 only if every expectation held.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from tests.lab import kept
from tests.lab.cluster import ADDRESSES, Cluster
from tests.lab.host import cleanup_leftovers
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
TIMES_OUT = 28
ANSWER_S, SILENCE_S = 5.0, 2.0
"""How long an answer is waited for, and how long one that must not come."""
PROVEN = (
    "tasks on two hosts reached each other; the policy let in by label alone, across hosts, and changed nothing else;"
    " an established connection lived on; deleting the policy restored everything"
)
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
        print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)
        started = time.monotonic()
        yield
        print(f"   done in {(time.monotonic() - started) * 1000:.0f} ms", flush=True)

    def play(self) -> None:
        """The whole story."""
        self.boot()
        self.launch()
        before = self.before_policy()
        slow = self.open_connection()
        self.apply()
        after = self.under_policy(slow)
        self.delete()
        show_matrices(list(self.tasks), before, after)

    def boot(self) -> None:
        """etcd, startup and agent on every host."""
        with self.step(f"1. Boot etcd on m1 and an agent on {', '.join(self.cluster.hosts)}"):
            self.cluster.start()
            for name in self.cluster.hosts:
                status = self.cluster.agent_status(name)
                print(
                    f"   {name} {ADDRESSES[name]}: kernel reflects datastore revision {status['programmed_revision']}"
                )

    def launch(self) -> None:
        """Attach the tasks as a Mesos agent does."""
        with self.step("2. Start three tasks: the Mesos stand-in calls CNI with labels"):
            for name, (host, labels) in TASKS.items():
                started = time.monotonic()
                self.tasks[name] = task = self.cluster.mesos(host).launch(name, labels=labels)
                taken = (time.monotonic() - started) * 1000
                print(f"   {name:20} on {host}: {task.address:16} {labels} (serving after {taken:.0f} ms)")

    def before_policy(self) -> Matrix:
        """Everybody reaches everybody."""
        with self.step("3. Before the policy: both frontends fetch /id from the server on the other host"):
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
            print("   it lets bookstores in to the bookstore's server on port 80, and keeps fruitstores out:")
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
        with self.step("5. Under the policy: bookstore still gets the id, fruitstore times out"):
            started = time.monotonic()
            self.cluster.wait_programmed(TASKS[SERVER][0])
            self.cluster.wait("the policy", lambda: self.fetch("fruitstore-frontend", 0.3)[0] == TIMES_OUT)
            taken = (time.monotonic() - started) * 1000
            print(f"   fruitstore is kept out: seen after {taken:.0f} ms, of which a probe that gives up takes 300")
            if self.expect("bookstore-frontend", allowed=True) != self.identity:
                raise Unexpected("the server answered with another id")
            self.expect("fruitstore-frontend", allowed=False)
            size = self._size(slow_log)
            self.cluster.wait("the established connection to go on", lambda: self._size(slow_log) > size)
            print("   fruitstore's connection from before the policy lives on")
            print(
                f"   everybody tries everybody, for the table at the end (no answer in {SILENCE_S:.0f} s is a time-out)"
            )
            return self.matrix()

    def delete(self) -> None:
        """The policy goes, and all is as before."""
        with self.step("6. calicoctl delete -f bookstore-policy.yaml restores everything"):
            self.calicoctl(
                "delete", "-f", "/run/bookstore-policy.yaml", "Successfully deleted 1 'NetworkPolicy' resource(s)"
            )
            self.cluster.wait("access again", lambda: self.fetch("fruitstore-frontend", 0.3)[0] == 0)
            self.expect("fruitstore-frontend", allowed=True)

    def fetch(self, client: str, timeout_s: float) -> tuple[int, str]:
        """A request to the server."""
        return self.tasks[client].fetch(self.tasks[SERVER].address, timeout_s=timeout_s)

    def expect(self, client: str, allowed: bool) -> str:
        """A request that must get through, or must time out."""
        started = time.monotonic()
        status, body = self.fetch(client, ANSWER_S if allowed else SILENCE_S)
        taken = (time.monotonic() - started) * 1000
        shown = {0: f"answer {body!r}", TIMES_OUT: "timed out", 7: "REFUSED"}.get(status, f"exit {status}")
        print(f"   {client} -> http://{self.tasks[SERVER].address}/id: {shown} ({taken:.0f} ms)")
        if (status == 0) != allowed or (not allowed and status != TIMES_OUT):
            raise Unexpected(f"{client}: {shown}, expected {'an answer' if allowed else 'a time-out'}")
        return body

    def matrix(self) -> Matrix:
        """Who reaches whom now."""
        words = {0: "yes", TIMES_OUT: "-"}
        return {
            (one, other): words.get(self.tasks[one].fetch(self.tasks[other].address, timeout_s=SILENCE_S)[0], "?")
            for one in self.tasks
            for other in self.tasks
            if one != other
        }


def show_matrices(names: list[str], before: Matrix, after: Matrix) -> None:
    """Both tables, one under the other; `-` is a time-out."""
    expected_denied = ("fruitstore-frontend", SERVER)
    width = max(map(len, names)) + 2
    for title, matrix in (("before the policy", before), ("under the policy", after)):
        print(f"\n   {title} (row reaches column on port 80; - is a time-out)")
        print("   " + "".ljust(width) + "".join(name.ljust(width) for name in names))
        for one in names:
            cells = [matrix.get((one, other), "") for other in names]
            print("   " + one.ljust(width) + "".join(cell.ljust(width) for cell in cells))
    for pair, cell in after.items():
        if (cell == "yes") == (pair == expected_denied):
            raise Unexpected(f"{pair[0]} -> {pair[1]}: {cell or 'nothing'} under the policy")
    if set(before.values()) != {"yes"}:
        raise Unexpected(f"not everybody reached everybody before the policy: {before}")


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
        print(f"\nEvery expectation held, in {time.monotonic() - started:.1f} s: {PROVEN}.")
        if keep:
            kept.keep(cluster)
        return 0
    except (Unexpected, TaskFailed) as error:
        print(f"\nFAILED: {error}\n{cluster.dump()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print("\ninterrupted: cleaning up", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    finally:
        if not (keep and done):
            cluster.close()


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="demo", description="the bookstore on three hosts")
    parser.add_argument("--keep", action="store_true", help="leave the lab standing")
    parser.add_argument("--down", action="store_true", help="remove a lab that was kept")
    parser.add_argument("--task", type=kept.task_name, metavar="NAME", help="start one more task in the kept lab")
    parser.add_argument("--on", choices=("m1", "a1", "a2"), help="the task's host")
    parser.add_argument(
        "--label", type=kept.label, action="append", default=[], metavar="KEY=VALUE", help="a label of the task"
    )
    parser.add_argument("--matrix", action="store_true", help="who reaches whom in the lab that was kept")
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
        if arguments.matrix:
            return kept.matrix(kept.load())
        signal.signal(signal.SIGTERM, _terminate)
        return run(arguments.keep)
    except kept.Refused as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has seen enough; what is still buffered must not fail at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
