"""node run: upstream starts a container image with everything in it; here the services are units of systemd
(spec/calicoctl.md 7.4).

Options are variables of the units' files. With --dryrun, what would be done is printed as a person can paste it.
Without, the units are started, and a host whose files do not say what the options say is left as it is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from calicoctl.commands.node_status import need_root
from calicoctl.failures import CommandFailed
from libcalico.kernel.process import run_bounded

FILES = ("/etc/calico/calico.env", "/etc/calico/felix.env", "/opt/mesosphere/etc/calico/calico-node.env")
UNITS = ("dcos-calico-felix", "calico-felix")
BIRD_UNITS = {
    "dcos-calico-felix": ("dcos-calico-confd", "dcos-calico-bird"),
    "calico-felix": ("calico-confd", "calico-bird"),
}
BACKENDS = ("bird", "none", "vxlan")
METHODS = ("first-found", "can-reach=", "interface=", "skip-interface=", "cidr=")
START_S = 60.0
LARGEST = 1 << 16
ERROR = "error executing command"
LARGEST_AS, LARGEST_HALF = (1 << 32) - 1, (1 << 16) - 1


def run(arguments: dict[str, Any]) -> int:
    """Start the services of this host, or with --dryrun print how."""
    variables = _variables(arguments)
    unit = _unit()
    units = [unit, *(BIRD_UNITS[unit] if arguments["--backend"] == "bird" else ())]
    if arguments["--dryrun"]:
        print("Use the following commands to start the services of this node:\n")
        for name, value in variables.items():
            print(f"echo {shlex.quote(f'{name}={value}')} >> {_file()}")
        print(f"systemctl restart {' '.join(units)}")
        return 0
    need_root()
    present = "\n".join(_text(file) for file in FILES).splitlines()
    missing = [f"{name}={value}" for name, value in variables.items() if f"{name}={value}" not in present]
    if missing:
        raise CommandFailed(
            f"{ERROR}: the services of this node are units of systemd, and their settings stand in {_file()}: add"
            f" {' '.join(missing)} there, or see 'calicoctl node run --dryrun'; nothing was started"
        )
    _start(units)
    return 0


def _variables(arguments: dict[str, Any]) -> dict[str, str]:
    """The units' variables for the options that were given. Raises `CommandFailed` for bad ones."""
    found = {}
    for option, variable, family in (("--ip", "IP", 4), ("--ip6", "IP6", 6)):
        value = arguments[option]
        if value:
            found[variable] = value if value == "autodetect" else _address(option, value, family)
    for option, variable in (("--ip-autodetection-method", "IP"), ("--ip6-autodetection-method", "IP6")):
        value = arguments[option]
        if value:
            if not value.startswith(METHODS):
                raise CommandFailed(f"{ERROR}: invalid IP autodetection method: {value}")
            found[f"{variable}_AUTODETECTION_METHOD"] = value
    if arguments["--as"]:
        found["AS"] = _as_number(arguments["--as"])
    if arguments["--name"]:
        found["NODENAME"] = arguments["--name"]
    if arguments["--backend"]:
        if arguments["--backend"] not in BACKENDS:
            raise CommandFailed(f"{ERROR}: unknown backend '{arguments['--backend']}'")
        found["CALICO_NETWORKING_BACKEND"] = arguments["--backend"]
    if arguments["--no-default-ippools"]:
        found["NO_DEFAULT_POOLS"] = "true"
    return found


def _address(option: str, value: str, family: int) -> str:
    try:
        address = ipaddress.ip_interface(value)
    except ValueError:
        raise CommandFailed(
            f"{ERROR}: {option} {value} is no IP address: write it as in 10.0.0.1 or 10.0.0.1/24"
        ) from None
    if address.version != family:
        raise CommandFailed(f"{ERROR}: {option} is wrong IP version")
    return value


def _as_number(value: str) -> str:
    """A number of 32 bits, or its halves with a dot between them."""
    parts = value.split(".")
    largest = LARGEST_AS if len(parts) == 1 else LARGEST_HALF
    is_well = len(parts) <= 2 and all(one.isascii() and one.isdigit() and len(one) <= 10 for one in parts)
    if not is_well or any(int(one) > largest for one in parts):
        raise CommandFailed(f"Error executing command: invalid AS Number specified: {value}", to_stdout=True)
    return value


def _unit() -> str:
    """DC/OS's name for the agent's unit, where there is one."""
    places = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
    for unit in UNITS:
        if any(Path(place, f"{unit}.service").exists() for place in places):
            return unit
    return UNITS[-1]


def _file() -> str:
    return next((file for file in reversed(FILES) if Path(file).exists()), FILES[1])


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _start(units: list[str]) -> None:
    program = shutil.which("systemctl")
    if program is None:
        raise CommandFailed(f"{ERROR}: this host has no systemctl: start {' '.join(units)} with its own supervisor")
    words = ["start", *units]
    done = asyncio.run(run_bounded(program, {"PATH": os.environ.get("PATH", "")}, START_S, words, LARGEST))
    if done.exit_code is None:
        raise CommandFailed(f"{ERROR}: systemctl start {' '.join(units)}: not done within {START_S:.0f} s")
    if done.exit_code:
        reason = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise CommandFailed(f"{ERROR}: systemctl start {' '.join(units)}: {reason}")
    print(f"Started {', '.join(units)}")
