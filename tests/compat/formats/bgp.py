"""`bgp.jsonl`: what a node's BIRD must be configured with (vectors/BGP.md).

Resources become our rendering, `bird -p` judges the file, and the facts are read from its text. Cases marked `open`
are played too; their differences are printed apart.
"""

from __future__ import annotations

import copy
import ipaddress
import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from calico_bird.render import Rendered, Renderer
from calico_bird.routing import Routing
from libcalico.model.keys import ResourceKey, parse_path
from libcalico.testing.bird import has_bird, refusal
from tests.compat.bird_facts import Facts, net, read_facts
from tests.compat.contract import Options, Result, Shape, json_lines, judged, tree_differences, unknown_members

CASE: Shape = {
    "name": None, "note": None, "node": None, "env": {"CALICO_ROUTER_ID": None}, "files": None, "resources": None,
    "raw": None, "expect": None, "ours": None, "decided": None, "open": None, "suggested": None,
}  # fmt: skip
MEMBERS = (
    "router_id", "listen", "bgp", "local_as", "debug", "direct", "filters", "peers", "communities", "static",
    "aggregation", "export", "kernel",
)  # fmt: skip
FELIX_IPIP = (None, "", "EnabledNoEncapOnly", "Disabled")
ALL_DEVICES, SAME_AS_DEVICES = {("bpf*.cali", False)}, {("*.cali", True), ("*.calico", True)}


class Outcome(NamedTuple):
    """What holds in every case and does not, and where the facts differ from those that were expected."""

    failures: list[str]
    differences: list[str]


def claims(_path: Path, head: bytes) -> bool:
    """Lines with a `node`, `resources` and facts by family."""
    first = head.split(b"\n", 1)[0]
    return all(word in first for word in (b'"node"', b'"resources"', b'"expect"', b'"kernel"', b'"aggregation"'))


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every case; at the end, what the open ones answered otherwise."""
    if not has_bird():
        yield Result("file", ("there is no bird on this machine: apt-get install bird2",))
        return
    open_cases: dict[str, list[str]] = {}
    for place, case, problem in json_lines(path):
        name = str(case.get("name", place))
        if options.only not in name:
            continue
        if problem:
            yield Result(name, (problem,))
        else:
            yield judged(name, lambda case=case, name=name: _judge(name, case, open_cases))  # type: ignore[misc]
    differing = {name: found for name, found in open_cases.items() if found}
    for name, found in differing.items():
        print(f"OPEN {path.name} {name}")
        print("".join(f"     {text}\n" for text in found), end="")
    if open_cases:
        print(f"OPEN {path.name}: {len(open_cases)} cases, {len(differing)} answered otherwise")


def _judge(name: str, case: dict[str, Any], open_cases: dict[str, list[str]]) -> list[str]:
    outcome = play(case)
    if "open" not in case:
        return outcome.failures + outcome.differences
    open_cases[name] = outcome.differences
    return outcome.failures


def play(case: dict[str, Any]) -> Outcome:
    """Render a case and judge it."""
    failures = unknown_members(case, CASE)
    text = render(case).text
    if refused := refusal(text):
        return Outcome([*failures, f"BIRD refuses the file: {refused}"], [])
    names = [key.name for key, _ in stored(case) if key.kind == "BGPFilter"]
    facts, problems = read_facts(text, names)
    failures += problems
    differences = []
    for family in (4, 6):
        failures += _device_problems(case, family, facts[family]["devices"])
        wanted = expected(case, family)
        if "failed" in wanted:
            if "open" not in case:
                failures.append(f"IPv{family}: the recorded answer is none, and the case is not open")
            continue
        found = _differences(facts[family], wanted)
        differences += [f"IPv{family} {one}" for one in found]
    return Outcome(failures, differences)


def render(case: dict[str, Any]) -> Rendered:
    """Our configuration for the case's node."""
    state = Routing(case["node"], case.get("env", {}).get("CALICO_ROUTER_ID", ""))
    for key, value in stored(case):
        state.put(key, value)
    for path, given in case.get("raw", {}).items():
        other = parse_path(path)
        if other is not None and not isinstance(other, ResourceKey):
            state.put(other, raw_value(given))
    for name, status in case.get("files", {}).items():
        state.put_workload(name, json.dumps(status).encode())
    return Renderer().render(state)


def stored(case: dict[str, Any]) -> list[tuple[ResourceKey, bytes]]:
    """Every v3 object of the case as etcd has it."""
    objects = [
        (ResourceKey(one["kind"], one["metadata"]["name"]), json.dumps(one).encode()) for one in case["resources"]
    ]
    keys = [(parse_path(path), raw_value(given)) for path, given in case.get("raw", {}).items()]
    return objects + [(key, value) for key, value in keys if isinstance(key, ResourceKey)]


def raw_value(given: Any) -> bytes:
    """A raw value's bytes: a text verbatim, anything else as JSON."""
    return given.encode() if isinstance(given, str) else json.dumps(given).encode()


def expected(case: dict[str, Any], family: int) -> Facts:
    """What ours must answer: the recorded facts with what was decided otherwise, and the rules for all cases."""
    wanted: Facts = dict(case["expect"][str(family)])
    for member in ("ours", "suggested"):
        given = case.get(member, {}).get(str(family), {})
        if given and "failed" in wanted:
            wanted = {}
        wanted |= given
    wanted = copy.deepcopy(wanted)
    if "failed" in wanted:
        return wanted
    for peer in wanted["peers"]:
        peer.setdefault("disabled", False)
        if peer["name"].startswith("Mesh_"):
            peer |= {"ttl_security": False, "multihop": True}
    for one in wanted["filters"]:
        one.pop("function", None)
    return wanted


def _differences(facts: Facts, wanted: Facts) -> list[str]:
    found = [f"/{member} is unknown to the judge" for member in sorted(wanted.keys() - set(MEMBERS))]
    for member in MEMBERS:
        if member not in wanted or (member == "listen" and not wanted["peers"]):
            continue
        found += _member_differences(member, normal(facts[member], member), normal(wanted[member], member))
    return found


def _member_differences(member: str, ours: Any, wanted: Any) -> list[str]:
    where = f"/{member}"
    if member == "export":
        return [text for part in ("reject", "accept") for text in _ordered(ours[part], wanted[part], f"{where}/{part}")]
    if member == "kernel":
        pools = [(one["net"], one) for one in ours["pools"]], [(one["net"], one) for one in wanted["pools"]]
        found = _ordered([one for one, _ in pools[0]], [one for one, _ in pools[1]], f"{where}/pools")
        found += tree_differences(dict(pools[0]), dict(pools[1]), f"{where}/pools")
        return found + tree_differences(ours["reject"], wanted["reject"], f"{where}/reject")
    if member == "peers":
        return tree_differences({one["name"]: one for one in ours}, {one["name"]: one for one in wanted}, where)
    if member == "filters":
        named = [{f"{one['name']} {one['direction']}": one for one in side} for side in (ours, wanted)]
        return tree_differences(named[0], named[1], where)
    return tree_differences(ours, wanted, where)


def _ordered(ours: list[str], wanted: list[str], where: str) -> list[str]:
    """Order counts only between nets that overlap."""
    found = tree_differences(sorted(ours), sorted(wanted), where)
    for one, other in combinations(wanted, 2):
        overlap = ipaddress.ip_network(one).overlaps(ipaddress.ip_network(other))
        if not found and overlap and one != other and ours.index(one) > ours.index(other):
            found.append(f"{where}: {other} stands before {one}")
    return found


def normal(value: Any, member: str) -> Any:
    """Networks in one spelling; without what counts only where ours has the exception of spec/bgp.md 5.3."""
    if isinstance(value, list):
        return [normal(one, member) for one in value]
    if isinstance(value, dict):
        return {
            name: normal(one, member)
            for name, one in value.items()
            if (member, name) not in (("aggregation", "metric_below"), ("kernel", "priority"))
        }
    if isinstance(value, str) and "/" in value:
        try:
            return net(value)
        except ValueError:
            return value
    return value


def _device_problems(case: dict[str, Any], family: int, devices: set[tuple[str, bool]]) -> list[str]:
    """Devices whose routes never leave the node (BGP.md, "the same in every case" and "by rule")."""
    program = None
    for key, value in stored(case):
        if key == ResourceKey("BGPConfiguration", "default"):
            try:
                program = json.loads(value)["spec"].get("programClusterRoutes")
            except (ValueError, LookupError, AttributeError, TypeError):
                continue
    wanted = ALL_DEVICES | SAME_AS_DEVICES | ({("tunl0", True)} if program in FELIX_IPIP else set())
    return [] if devices == wanted else [f"IPv{family}: devices {sorted(devices)}, expected {sorted(wanted)}"]
