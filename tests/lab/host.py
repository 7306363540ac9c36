"""One simulated host: its own network, mount, UTS, IPC and PID namespace (spec/scenarios.md 1.1).

The namespaces live as long as one process, the host's init; the kernel takes everything in them away with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from libcalico.testing.machine import DIE_WITH_US

MARK = "CALICO_LAB"
KEPT = "CALICO_LAB_KEPT_BY"
"""In the environment of a host that is to outlive its run: the run's process id and start."""
KILL_LIMIT_S = 5.0
PRIVATE = ("/run", "/etc/calico", "/etc/cni", "/var/lib/calico", "/var/log/calico")
SETUP = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys 2>/dev/null || true
for folder in {private}; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
mkdir -p /run/calico /run/mesos
hostname {name}
ip link set lo up
for key in all default; do echo 2 > /proc/sys/net/ipv4/conf/$key/rp_filter; done
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
exec sleep infinity
"""


class CommandFailed(Exception):
    """A command on a host ended with a status that was not expected; the message has its output."""


def identity_of(pid: int) -> str:
    """A process's id with its start time, which no later process shares; empty when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return f"{pid}/{stat.rpartition(')')[2].split()[19]}"


def cleanup_leftovers(spare: Collection[int] = ()) -> list[int]:
    """Kill the hosts of runs that were to keep them but were killed before they could say so.

    Returns their pids when they are gone.

    `spare`: the processes that hold a lab which a finished run left standing; it looks the same."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        owner = next((word for word in words if word.startswith(f"{KEPT}=".encode())), b"").decode().partition("=")[2]
        pid = int(folder.name)
        if owner and pid not in spare and identity_of(int(owner.partition("/")[0])) != owner:
            found.append(pid)
    return kill_ours(found)


def kill_ours(pids: Collection[int]) -> list[int]:
    """Kill those of the processes that carry our mark, and wait until they are gone; returns their ids."""
    killed = []
    for pid in filter(is_ours, pids):
        try:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + KILL_LIMIT_S
    while any(map(is_ours, killed)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return killed


def is_ours(pid: int) -> bool:
    """Does a living process carry our mark? Process ids are used again: only ours may be killed."""
    try:
        return f"{MARK}=".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


class Host:
    """A host. `run` waits for a command on it, `start` leaves one running until the host or the run ends."""

    def __init__(
        self,
        name: str,
        say: Callable[[str], None] | None = None,
        keep: bool = False,
        inherits: Collection[int] = (),
        setup: str = "",
    ) -> None:
        """`inherits`: descriptors that stay open as long as the host lives. `setup`: another script than `SETUP`."""
        self.name = name
        self._say = say or (lambda _text: None)
        self._keep = keep
        self.processes: list[subprocess.Popen[bytes]] = []
        script = setup or SETUP.format(private=" ".join(PRIVATE), name=shlex.quote(name))
        self._init = subprocess.Popen(
            [
                *(() if keep else DIE_WITH_US),
                "unshare",
                "--net",
                "--mount",
                "--uts",
                "--ipc",
                "--pid",
                "--fork",
                "--kill-child=SIGKILL",
                "sh",
                "-c",
                script,
            ],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if keep else None,
            env={**os.environ, MARK: name, **({KEPT: identity_of(os.getpid())} if keep else {})},
            start_new_session=True,
            pass_fds=inherits,
        )
        assert self._init.stdout is not None
        if self._init.stdout.readline() != b"ready\n":
            raise CommandFailed(f"host {name}: cannot make its namespaces: are you root?")
        self.pid = self._child_of(self._init.pid)

    @staticmethod
    def _child_of(pid: int) -> int:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return int(children[0])
            time.sleep(0.01)
        raise CommandFailed("the host's init did not appear")

    def enter(self, netns: str = "") -> list[str]:
        """The words before a command that make it run here, or in a task's network namespace here."""
        words = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--ipc", "--pid", "--"]
        return [*words, "nsenter", f"--net={netns}", "--"] if netns else words

    def run(
        self,
        command: Sequence[str] | str,
        *,
        environment: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        check: bool = True,
        timeout_s: float = 60.0,
        netns: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end. A string goes to a shell. `environment` is the whole environment when it is given."""
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        self._say(f"{self.name}# {command if isinstance(command, str) else shlex.join(words)}")
        done = subprocess.run(
            [*DIE_WITH_US, *self.enter(netns), *words],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            env=self._environment(environment),
            check=False,
        )
        result = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )
        if check and result.returncode:
            raise CommandFailed(
                f"{self.name}# {shlex.join(words)}: exit {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: IO[Any] | int = subprocess.DEVNULL,
        netns: str = "",
    ) -> subprocess.Popen[bytes]:
        """Leave a command running; it ends with the host, whose PID namespace it is in."""
        process = subprocess.Popen(
            [*self.enter(netns), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment(environment),
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def _environment(self, given: Mapping[str, str] | None) -> dict[str, str]:
        if given is not None:
            return dict(given)
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        return {**os.environ, "PATH": path, MARK: self.name}

    def write(self, path: str, text: str) -> None:
        """Put a file on the host."""
        self.run(
            ["sh", "-c", f"mkdir -p {shlex.quote(str(Path(path).parent))} && cat > {shlex.quote(path)}"],
            stdin=text.encode(),
        )

    def read(self, path: str) -> str:
        """A file of the host."""
        return self.run(["cat", path]).stdout

    def sysctl(self, key: str, value: str) -> None:
        """Set a kernel setting."""
        self.run(["sh", "-c", f"echo {shlex.quote(value)} > /proc/sys/{key}"])

    def stop_process(
        self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM, timeout_s: float = 10.0
    ) -> int:
        """End a started command (nsenter's child does the work: the signal goes to the innermost process)."""
        for pid in innermost(process.pid) or [process.pid]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)  # nsenter stops itself when its child is stopped
        status = process.wait(timeout_s)
        if process in self.processes:
            self.processes.remove(process)
        return status

    def close(self) -> None:
        """Take the host away with all that runs on it."""
        self._init.kill()  # first: it complains when its child is killed before it
        with contextlib.suppress(ProcessLookupError):
            inner = os.pidfd_open(self.pid)
            signal.pidfd_send_signal(inner, signal.SIGKILL)
            select.select([inner], [], [], KILL_LIMIT_S)
            os.close(inner)
        self._init.wait()
        for process in self.processes:
            process.kill()
            process.wait()
        if self._init.stdout is not None:
            self._init.stdout.close()


def innermost(pid: int) -> list[int]:
    """The innermost children of a process."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    found: list[int] = []
    for child in children:
        found += innermost(child) or [child]
    return found


def has_ipip() -> bool:
    """Does this machine's kernel have IPIP devices?"""
    command = ["unshare", "--net", "sh", "-c", "ip link show tunl0 || ip link add probe type ipip"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def connect(one: Host, one_name: str, other: Host, other_name: str) -> None:
    """A cable between two hosts."""
    subprocess.run(
        ["ip", "link", "add", "name", one_name, "netns", str(one.pid), "type", "veth",
         "peer", "name", other_name, "netns", str(other.pid)],
        check=True,
    )  # fmt: skip
    for host, name in ((one, one_name), (other, other_name)):
        host.run(["ip", "link", "set", name, "up"])
