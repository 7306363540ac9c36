"""iptables' legacy tables on the real kernel: every change of another program is seen, and packets are none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from libcalico.testing.machine import need

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")]

SCRIPT = """
import json, subprocess, sys
from libcalico.kernel.legacy_state import legacy_state
program, family, loopback = sys.argv[1:]
def run(words):
    subprocess.run(words.split(), check=True, stdout=subprocess.DEVNULL)
def state():
    return {name: digest.hex() for name, digest in legacy_state(family).items()}
run("ip link set lo up")
states = [state()]
for change in ("-N MINE", "-A MINE -s {loopback} -p tcp --dport 80 -m limit --limit 3/s -j ACCEPT", "-A OUTPUT -j MINE",
               "packets", "-P FORWARD DROP", "-R MINE 1 -s {loopback} -p tcp --dport 81 -m limit --limit 3/s -j ACCEPT",
               "-t mangle -N OTHER", "-F"):
    if change == "packets":
        run(f"ping -c 3 -i 0.01 {loopback}")
    else:
        run(f"{program} {change}".format(loopback=loopback))
    states.append(state())
print(json.dumps(states))
"""


@pytest.mark.parametrize(
    ("program", "family", "loopback"), [("iptables-legacy", "ip", "127.0.0.1"), ("ip6tables-legacy", "ip6", "::1")]
)
def test_every_change_is_seen_and_packets_are_none(program: str, family: str, loopback: str) -> None:
    need(shutil.which(program) is not None, "iptables", "apt-get install iptables")
    words = ["unshare", "-n", sys.executable, "-c", SCRIPT, program, family, loopback]
    states = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert states[0] == {} and set(states[1]) == {"filter"} and set(states[-1]) == {"filter", "mangle"}
    after_packets = 4
    for number in range(1, len(states)):
        assert (states[number] == states[number - 1]) is (number == after_packets), number
