"""What spec/bgp.md 12 decides where upstream renders nothing: the cases whose answer the vectors leave open."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.compat import vectors
from tests.compat.bird_facts import read_facts
from tests.compat.contract import json_lines
from tests.compat.formats import bgp

FILE = vectors.unpacked() / "recorded" / "bgp.jsonl"
CASES = {str(case["name"]): case for _, case, _ in json_lines(FILE)}
REJECTED = ("filter-action-unknown", "filter-operator-missing", "filter-interface-hostile")


def _facts(case: dict[str, Any]) -> dict[int, dict[str, Any]]:
    names = [key.name for key, _ in bgp.stored(case) if key.kind == "BGPFilter"]
    facts, problems = read_facts(bgp.render(case).text, names)
    assert problems == []
    return facts


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "suggested" in case])
def test_what_is_suggested_is_what_we_do(name: str) -> None:
    assert bgp.play(CASES[name]) == ([], [])


@pytest.mark.parametrize("name", REJECTED)
def test_a_session_with_a_filter_that_cannot_be_said_lets_nothing_out(name: str) -> None:
    case = CASES[name]
    facts = _facts(case)[4]
    assert [(one["name"], one["rules"]) for one in facts["filters"]] == [("bad", [{"action": "reject"}])]
    assert [(peer["name"], peer["export"]) for peer in facts["peers"]] == [("Global_192_0_2_1", ["bad"])]
    assert any("BGPFilter(bad)" in problem.subject for problem in bgp.render(case).problems)


def test_a_hostile_name_becomes_another_one() -> None:
    facts = _facts(CASES["filter-name-hostile"])[4]
    assert [peer["export"] for peer in facts["peers"]] == [["it's"]]


def test_a_cluster_id_that_is_none_leaves_a_session_without_clients() -> None:
    case = CASES["hostile-cluster-id"]
    peers = _facts(case)[4]["peers"]
    assert [(peer["name"], peer["rr_client"], peer["rr_cluster_id"]) for peer in peers] == [
        ("Global_192_0_2_1", False, None)
    ]
    assert any("routeReflectorClusterID" in problem.reason for problem in bgp.render(case).problems)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "6.4" in case.get("decided", "")])
def test_where_bird_programs_the_cluster_the_recorded_answer_holds(name: str) -> None:
    """Upstream's recorded default is `Enabled`; ours is another one (spec/bgp.md 6.4)."""
    case = copy.deepcopy({key: value for key, value in CASES[name].items() if key not in ("ours", "decided")})
    spec = {"programClusterRoutes": "Enabled"}
    found = [one for one in case["resources"] if one["kind"] == "BGPConfiguration"]
    assert not [one for one in found if one["metadata"]["name"] != "default"]
    for one in found:
        one["spec"] |= spec
    missing = {"kind": "BGPConfiguration", "metadata": {"name": "default"}, "spec": spec}
    case["resources"] += [] if found else [missing]
    assert bgp.play(case) == ([], [])


def test_the_judge_sees_what_is_missing() -> None:
    case = {**CASES["filter-operators"]}
    for family, member in (("4", "peers"), ("6", "filters")):
        changed = {**case, "expect": {**case["expect"], family: {**case["expect"][family], member: []}}}
        assert any(f"IPv{family} /{member}" in text for text in bgp.play(changed).differences)
