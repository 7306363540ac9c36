"""Working in a lab that `make demo KEEP=1` left standing: one more task, and who reaches whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.lab.cluster import BIN
from tests.lab.host import Host
from tests.lab.mesos import ROOT, Mesos, Task


class KeptHost(Host):
    """A host whose namespaces somebody else made; what is started here stays when we end."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.processes = []
        self._keep = True
        self._say = lambda _text: None


def launch(state: dict[str, Any], on: str, name: str, labels: Sequence[str]) -> int:
    """Start a task."""
    pairs = dict(label.split("=", 1) for label in labels)
    task = Mesos(KeptHost(on, state["hosts"][on]), str(BIN)).launch(name, labels=pairs)
    print(f"{name} runs on {on}: {task.address} {pairs}")
    return 0


def tasks(state: dict[str, Any]) -> list[Task]:
    """Every task that stands, found by the files that the Mesos stand-in keeps."""
    found = []
    for name, pid in state["hosts"].items():
        if name == "x1":
            continue
        mesos = Mesos(KeptHost(name, pid), str(BIN))
        for identity in mesos.host.run(f"ls {ROOT} 2>/dev/null", check=False).stdout.split():
            info = json.loads(mesos.host.read(f"{ROOT}/{identity}/calico/eth0/network.info"))
            label = mesos.host.run(f"cat {ROOT}/{identity}/name 2>/dev/null", check=False).stdout
            task = Task(mesos, label or identity[:8], identity)
            task.addresses["eth0"] = info["ip4"]["ip"].partition("/")[0]
            found.append(task)
    return found


def matrix(state: dict[str, Any]) -> int:
    """Print who reaches whom."""
    everybody = tasks(state)
    width = max(len(task.name) for task in everybody) + 2
    print("row reaches column on port 80; - is a time-out")
    print("".ljust(width) + "".join(task.name.ljust(width) for task in everybody))
    for one in everybody:
        cells = []
        for other in everybody:
            status = one.fetch(other.address, timeout_s=0.5)[0] if one is not other else None
            cells.append({None: "", 0: "yes", 28: "-"}.get(status, "?"))
        print(one.name.ljust(width) + "".join(cell.ljust(width) for cell in cells))
    return 0
