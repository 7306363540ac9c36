"""The agent's debug commands: what it believes, for people (docs/howto/debug.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from calico_felix.dataplane.loop import Dataplane
from calico_felix.report import Report
from libcalico.config import Configuration
from libcalico.errors import BadData
from libcalico.obs.debug import Command, table
from libcalico.policy.ir import PolicyId
from libcalico.policy.nft.names import policy_word
from libcalico.text import escaped, shown


def debug_commands(report: Report) -> dict[str, Command]:
    """Commands by name."""

    def opened() -> Dataplane:
        if report.dataplane is None:
            raise BadData("nothing is programmed by this agent yet: `problems` says what it waits for")
        return report.dataplane

    return {
        "status": lambda _words: json.dumps(report.status(), indent=2) + "\n",
        "config": lambda _words: _config(report.configuration),
        "show": lambda words: _show(words, opened()),
        "pending": lambda _words: _lines([*opened().pending(), *report.serving.problems()]),
        "problems": lambda _words: _lines(report.problems()),
        "table": lambda _words: opened().ruleset.table.render_replace(),
        "resync": lambda _words: _resync(opened()),
    }


def _lines(lines: Iterable[str]) -> str:
    return ("\n".join(map(escaped, lines)) or "nothing") + "\n"


def _config(configuration: Configuration) -> str:
    rows = [[name, _value(value.value), value.source] for name, value in sorted(configuration.values.items())]
    listing = table(["PARAMETER", "VALUE", "SOURCE"], rows)
    return "\n".join([listing.rstrip("\n"), *configuration.warnings]) + "\n"


def _value(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _show(words: list[str], dataplane: Dataplane) -> str:
    kinds = {"endpoints": _endpoints, "policies": _policies, "sets": _sets, "routes": _routes, "links": _links}
    if not words or words[0] not in kinds:
        stranger = f"there is no '{shown(words[0])}' to show; " if words else ""
        raise ValueError(f"{stranger}show one of {', '.join(kinds)}")
    return kinds[words[0]](dataplane)


def _endpoints(dataplane: Dataplane) -> str:
    rows = []
    for key, endpoint in sorted(dataplane.ruleset.owners.endpoints.items()):
        policies = [
            policy_word(p) for tier in endpoint.policy.tiers for p in dict.fromkeys((*tier.ingress, *tier.egress))
        ]
        rows.append(
            [
                str(key),
                endpoint.interface,
                ",".join(net.brief for net in endpoint.nets),
                ",".join(policies) or "-",
                ",".join(_profile(name, dataplane) for name in endpoint.policy.profiles) or "-",
                str(dataplane.readiness.programmed.get(key, 0)),
                dataplane.endpoint_problem(endpoint) or "up",
            ]
        )
    return table(["ENDPOINT", "INTERFACE", "ADDRESSES", "POLICIES", "PROFILES", "REVISION", "STATE"], rows)


def _profile(name: str, dataplane: Dataplane) -> str:
    known = PolicyId("Profile", "", name) in dataplane.ruleset.policies
    return name if known else f"{name} (missing)"


def _policies(dataplane: Dataplane) -> str:
    rows = [
        [policy_word(identity), policy.tier or "-", str(len(policy.ingress)), str(len(policy.egress))]
        for identity, policy in sorted(dataplane.ruleset.policies.items())
    ]
    return table(["POLICY", "TIER", "INGRESS", "EGRESS"], rows)


def _sets(dataplane: Dataplane) -> str:
    rows = [
        [name, "interval" if one.interval else "hash", str(len(one.elements))]
        for name, one in sorted(dataplane.ruleset.table.sets.items())
    ]
    return table(["SET", "TYPE", "MEMBERS"], rows)


def _routes(dataplane: Dataplane) -> str:
    actual = dataplane.routes.delta.actual
    names = {link.ifindex: name for name, link in dataplane.interfaces.links.items()}
    rows = [
        [
            route.destination,
            names.get(route.device, "-"),
            route.gateway or "-",
            str(route.metric),
            "yes" if actual.get(key) else "no",
        ]
        for key, route in sorted(dataplane.routes.delta.desired.items())
    ]
    return table(["DESTINATION", "DEVICE", "GATEWAY", "METRIC", "PROGRAMMED"], rows)


def _links(dataplane: Dataplane) -> str:
    rows = [
        [name, str(link.ifindex), "up" if link.up else "down", str(link.mtu)]
        for name, link in sorted(dataplane.interfaces.links.items())
    ]
    return table(["LINK", "INDEX", "STATE", "MTU"], rows)


def _resync(dataplane: Dataplane) -> str:
    dataplane.resync()
    return "the kernel's state is read and written again\n"
