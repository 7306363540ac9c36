"""The lab that `make demo KEEP=1` leaves standing, one a machine: written down, used, removed."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lab.cluster import BIN, Cluster
from tests.lab.folders import remove_dead_folders
from tests.lab.host import CommandFailed, Host, cleanup_leftovers, is_ours, kill_ours
from tests.lab.mesos import ROOT, Mesos, Task, TaskFailed

STATE = Path("/run/calico-lab.json")
CLONE = Path(__file__).resolve().parents[2]
PYTHON = ".venv/bin/python"
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Refused(Exception):
    """What was asked for cannot be done; the text says why."""


class KeptHost(Host):
    """A host whose namespaces somebody else made; what is started here stays when we end."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.processes = []
        self._keep = True
        self._say = lambda _text: None


def keep(cluster: Cluster) -> None:
    """Write down what stands, and say how to use it."""
    hosts = {name: host.pid for name, host in {**cluster.hosts, "x1": cluster.x1}.items()}
    everything = [cluster.fabric, cluster.router, cluster.x1, *cluster.hosts.values()]
    holders = [host._init.pid for host in everything] + [host.pid for host in everything]
    state = {"folder": str(cluster.folder), "pids": holders, "hosts": hosts, "clone": str(CLONE)}
    STATE.write_text(json.dumps(state))
    print(ADVICE)


ADVICE = f"""
The hosts are standing. Try, after  cd {CLONE}

   make shell HOST=a2                                         a shell on a2; so for m1 and a1
   make shell HOST=m1 RUN='calicoctl get workloadendpoint -o wide'
   make shell HOST=m1 RUN='calicoctl apply -f /run/bookstore-policy.yaml'
   make shell HOST=m1 RUN='calicoctl delete -f /run/bookstore-policy.yaml'
   make shell HOST=a2 RUN='calicoctl node debug status'
   make shell HOST=m1 RUN='python /path/to/script.py'         there etcd is http://127.0.0.1:2379
   {PYTHON} -m tests.lab.demo --task my-task --on a2 --label biz_type=bookstore
   {PYTHON} -m tests.lab.demo --matrix              who reaches whom
   make demo-down                                             take it all away"""
"""What to try with the lab."""


def enter(state: Mapping[str, Any], name: str, command: str) -> int:
    """A shell on a host of the lab, or a command there, with our programs on the path; returns its exit status."""
    inside = ["sh", "-c", command] if command else ["bash", "--norc"]
    path = f"PATH={BIN}:{os.environ.get('PATH', '')}"
    words = [
        "nsenter",
        "-t",
        str(state["hosts"][name]),
        "-n",
        "-m",
        "-u",
        "-i",
        "-p",
        "--",
        "env",
        path,
        f"PS1={name}# ",
    ]
    done = subprocess.run([*words, *inside], check=False)
    return done.returncode if command else 0


def load() -> dict[str, Any]:
    """What stands; raises `Refused` when nothing does."""
    state = _read()
    if not state:
        raise Refused("no demo is standing: make demo KEEP=1")
    if not _lives(state):
        raise Refused(f"the demo that was kept at {state['folder']} is dead: make demo-down, then make demo KEEP=1")
    return state


def _read() -> dict[str, Any]:
    return dict(json.loads(STATE.read_text())) if STATE.exists() else {}


def _lives(state: Mapping[str, Any]) -> bool:
    return any(map(is_ours, state["pids"]))


def remove() -> bool:
    """Remove the demo that was kept, if there is one; raises `Refused` when another clone keeps it and it lives."""
    state = _read()
    if not state:
        return False
    clone = state.get("clone", "another clone")
    if clone != str(CLONE) and _lives(state):
        raise Refused(
            f"a demo stands at {state['folder']}, started from {clone}, and there is one a machine: remove it there"
            " with `make demo-down`"
        )
    print(f"removing the demo that was kept at {state['folder']} (started from {clone})", flush=True)
    kill_ours(state["pids"])
    shutil.rmtree(state["folder"], ignore_errors=True)
    STATE.unlink()
    return True


def down() -> int:
    """Remove a demo that was kept, and whatever a killed run may have left."""
    stood = remove()
    processes, folders = cleanup_leftovers(), remove_dead_folders()
    if processes or folders:
        print(f"removed what a killed run left: {len(processes)} processes, {len(folders)} folders")
    elif not stood:
        print("no demo is standing")
    return 0


def task_name(text: str) -> str:
    """The name of a task, from the command line."""
    if not TASK_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: letters, digits, '.', '_' and '-', no blank")
    return text


def label(text: str) -> tuple[str, str]:
    """KEY=VALUE, from the command line."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def launch(state: Mapping[str, Any], on: str, name: str, labels: Mapping[str, str]) -> int:
    """Start a task, and print what was stored of it."""
    if name in {task.name for task in tasks(state)}:
        raise Refused(f"a task {name} runs already: choose another name")
    host = KeptHost(on, state["hosts"][on])
    try:
        task = Mesos(host, str(BIN)).launch(name, labels=labels)
    except (TaskFailed, CommandFailed) as error:
        raise Refused(f"the task did not start: {error}") from error
    metadata = _endpoint(host, task)["metadata"]
    stored = {key: value for key, value in metadata["labels"].items() if not key.startswith("projectcalico.org/")}
    print(f"{name} runs on {on}: {task.address} {stored}")
    print(f"its endpoint: {metadata['name']}")
    return 0


def _endpoint(host: Host, task: Task) -> dict[str, Any]:
    """A task's WorkloadEndpoint, as calicoctl shows it."""
    found = json.loads(host.run([str(BIN / "calicoctl"), "get", "wep", "-A", "-o", "json"]).stdout)
    endpoints: list[dict[str, Any]] = found["items"]
    return next(one for one in endpoints if one["spec"].get("containerID") == task.id)


def tasks(state: Mapping[str, Any]) -> list[Task]:
    """Every task that stands, found by the files that the Mesos stand-in keeps."""
    found = []
    for name, pid in state["hosts"].items():
        if name == "x1":
            continue
        mesos = Mesos(KeptHost(name, pid), str(BIN))
        for identity in mesos.host.run(f"ls {ROOT} 2>/dev/null", check=False).stdout.split():
            info = json.loads(mesos.host.read(f"{ROOT}/{identity}/calico/eth0/network.info"))
            known_as = mesos.host.run(f"cat {ROOT}/{identity}/name 2>/dev/null", check=False).stdout
            task = Task(mesos, known_as or identity[:8], identity)
            task.addresses["eth0"] = info["ip4"]["ip"].partition("/")[0]
            found.append(task)
    return found


def matrix(state: Mapping[str, Any]) -> int:
    """Print who reaches whom."""
    everybody = tasks(state)
    width = max(len(task.name) for task in everybody) + 2
    print("does the task of the row reach the one of the column, on port 80?")
    print(("".ljust(width) + "".join(task.name.ljust(width) for task in everybody)).rstrip())
    for one in everybody:
        cells = []
        for other in everybody:
            status = one.fetch(other.address, timeout_s=2.0)[0] if one is not other else None
            cells.append({None: "", 0: "yes", 28: "no"}.get(status, "?"))
        print((one.name.ljust(width) + "".join(cell.ljust(width) for cell in cells)).rstrip(), flush=True)
    return 0
