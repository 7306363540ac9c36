"""What a person is told when something goes wrong: object, file, line, and what would have been right.

Upstream's texts are fixed by the golden vectors; the notes below them are printed with `-l error` and on a terminal.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import calicoctl.main
from calicoctl import failures
from calicoctl.testing import Outcome, run_calicoctl
from libcalico.datastore.memory import MemoryDatastore
from libcalico.manifest.kinds import TYPED
from libcalico.obs import logs

HEAD = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: "
GOOD = HEAD + "{name: good}\nspec: {nets: [10.0.0.0/8]}\n"
BETTER = HEAD + "{name: better}\nspec: {}\n"
BAD = HEAD + "{name: bad}\nspec: {nets: [x]}\n"
WORSE = HEAD + "{name: worse}\nspec: {nets: [y]}\n"
WRONG_PORT = """\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web}
spec:
  ingress:
  - action: Allow
    destination:
      ports: [70000]
"""


def told(command: str, *documents: str) -> Outcome:
    """A command on a file, with the notes."""
    text = "---\n".join(documents)
    return run_calicoctl(MemoryDatastore(), ["-l", "error", *command.split()], {"in.yaml": text})


def test_a_bad_object_is_named_with_its_place_and_so_is_what_was_stored() -> None:
    outcome = told("apply -f in.yaml", GOOD, BAD)
    assert outcome.status == 1
    assert outcome.stderr.splitlines()[1:] == [
        "in.yaml, line 6: GlobalNetworkSet(bad)",
        "  line 9: Nets[0] 'x': an address with a length, such as 10.0.0.0/16",
        "applied: GlobalNetworkSet(good)",
    ]


def test_bad_fields_are_answered_with_their_lines_and_what_would_be_right() -> None:
    policy = HEAD.replace("GlobalNetworkSet", "GlobalNetworkPolicy") + (
        "{name: bad}\nspec:\n  selector: role = 'x'\n  types: [Ingress]\n  ingress:\n  - action: Allow\n"
        "  - action: Alow\n    protocol: TCPP\n  egress:\n  - action: Allow\n    protocol: TCPP\n"
    )
    assert told("apply -f in.yaml", GOOD, policy).stderr.splitlines()[-6:] == [
        "in.yaml, line 6: GlobalNetworkPolicy(bad)",
        "  line 14: Action 'Alow': Allow, Deny, Log or Pass",
        "  line 15: Protocol 'TCPP': TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number from 1 to 255",
        "  line 18: Protocol 'TCPP': TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number from 1 to 255",
        '  line 10: Selector "role = \'x\'": expected operator after label "role"',
        "applied: GlobalNetworkSet(good)",
    ]


def test_the_line_of_a_bad_entry_is_its_own() -> None:
    policy = HEAD.replace("GlobalNetworkSet", "GlobalNetworkPolicy") + (
        "{name: bad}\nspec:\n  types: [Ingress]\n  ingress:\n  - action: Allow\n    source: {nets: [foo]}\n"
        "  - action: Allow\n    source:\n      nets:\n      - 10.0.0.0/8\n      - foo\n"
        "  - action: Allow\n    notProtocol: TCPP\n"
    )
    lines = told("apply -f in.yaml", policy).stderr.splitlines()
    places = [line.split(":")[0].strip() for line in lines if line.startswith("  line")]
    assert places == ["line 8", "line 13", "line 15"]


def test_the_first_is_not_what_succeeded() -> None:
    outcome = told("apply -f in.yaml", BAD, GOOD, BETTER)
    assert outcome.stdout == "Partial success: applied the first 2 out of 3 'GlobalNetworkSet' resources:\n"
    assert outcome.stderr.splitlines()[1:] == [
        "in.yaml, line 1: GlobalNetworkSet(bad)",
        "  line 4: Nets[0] 'x': an address with a length, such as 10.0.0.0/16",
        "applied: GlobalNetworkSet(good), GlobalNetworkSet(better)",
    ]


@pytest.mark.parametrize(("verb", "done"), [("create", "created"), ("replace", "replaced"), ("validate", "validated")])
def test_several_bad_objects_have_a_line_each(verb: str, done: str) -> None:
    told_lines = told(f"{verb} -f in.yaml", BAD, WORSE).stderr.splitlines()[1:]
    lines = [line for line in told_lines if not line.startswith("  ")]
    assert re.match(r"in.yaml, line 1: GlobalNetworkSet\(bad\): .+", lines[0])
    assert re.match(r"in.yaml, line 6: GlobalNetworkSet\(worse\): .+", lines[1])
    assert lines[2] == f"{done}: nothing"


def test_without_a_terminal_only_upstreams_text_is_printed() -> None:
    outcome = run_calicoctl(MemoryDatastore(), ["apply", "-f", "in.yaml"], {"in.yaml": BAD})
    assert outcome.stderr.count("\n") == 1


def test_on_a_terminal_the_notes_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_severity("none")  # as calicoctl starts with
    failures.show_notes(["quiet"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    failures.show_notes(["shown"])
    assert capsys.readouterr().err == "shown\n"


def test_what_cannot_be_read_is_named_with_its_line_all_at_once() -> None:
    outcome = told("validate -f in.yaml", WRONG_PORT, GOOD, HEAD + "{name: odd}\nspec: {netz: []}\n", "3\n")
    first, *lines = outcome.stderr.splitlines()
    assert first.endswith("cannot unmarshal number 70000 into Go struct field EntityRule.spec.ingress.destination.ports"
                          " of type uint16")  # fmt: skip
    assert lines[0] == "in.yaml, line 8: NetworkPolicy(web)"
    assert lines[1] == "  write a number from 0 to 65535"
    assert lines[2].startswith("in.yaml, line 18: GlobalNetworkSet(odd): field in document is not recognized")
    assert lines[3].startswith("in.yaml, line 20: no object: error unmarshaling JSON")
    assert lines[4] == "nothing was done"


@pytest.mark.parametrize(
    ("right", "wrong", "advice"),
    [
        ("kind: GlobalNetworkSet\n", "", "kind is missing; the kinds are: BGPConfiguration, BGPFilter, "),
        ("kind: GlobalNetworkSet", "kind: GlobalNetworkSets", "kind: write GlobalNetworkSet"),
        ("kind: GlobalNetworkSet", "kind: Pod", "there is no such kind; the kinds are: BGPConfiguration, "),
        ("projectcalico.org/v3", "v3", "apiVersion: write projectcalico.org/v3"),
    ],
)
def test_a_wrong_kind_or_version_is_answered_with_the_right_one(right: str, wrong: str, advice: str) -> None:
    first, place, note, end = told("apply -f in.yaml", GOOD.replace(right, wrong)).stderr.splitlines()
    assert "json" in first or "unknown resource type" in first
    assert place.startswith("in.yaml, line 1: ") and note.startswith(f"  {advice}") and end == "nothing was done"


def test_a_wrong_output_format_is_answered_with_the_right_ones() -> None:
    first, note = run_calicoctl(MemoryDatastore(), ["-l", "error", "get", "node", "-o", "jsn"], {}).stderr.splitlines()
    assert first == "unrecognized output format 'jsn'"
    assert note == "the formats are: ps, wide, yaml, yml, json, custom-columns=..."


@pytest.mark.parametrize(
    ("kind", "spec", "advice"),
    [
        ("NetworkPolicy", "{types: [ingress]}", "Types[0] 'ingress': Ingress or Egress"),
        ("NetworkPolicy", "{ingress: [{action: Allow, ipVersion: 5}]}", "IPVersion '5': 4 or 6"),
        ("IPPool", "{cidr: 10.0.0.0/16, vxlanMode: x}", "VXLANMode 'x': Never, Always or CrossSubnet"),
        ("IPPool", "{cidr: 10.0.0.0/16, ipipMode: x}", "IPIPMode 'x': Never, Always or CrossSubnet"),
        ("IPPool", "{cidr: 10.0.0.0/16, assignmentMode: x}", "AssignmentMode 'x': Automatic or Manual"),
    ],
)
def test_a_word_that_is_none_of_a_few_is_answered_with_these(kind: str, spec: str, advice: str) -> None:
    document = f"apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"
    notes = told("validate -f in.yaml", document).stderr.splitlines()
    assert any(note.endswith(advice) for note in notes), notes


def test_a_document_that_is_no_yaml_says_where_it_begins() -> None:
    outcome = told("validate -f in.yaml", GOOD, "a: [\n")
    assert outcome.stderr.splitlines()[1:] == ["in.yaml, in the document that begins at line 6", "nothing was done"]


@pytest.mark.parametrize("command", ["validate", "apply"])
@pytest.mark.parametrize("from_stdin", [False, True])
def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path, command: str, from_stdin: bool) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(GOOD.encode() + b"# caf\xe9\n")
    name = "-" if from_stdin else str(path)
    result = subprocess.run(
        [sys.executable, "-m", "calicoctl.main", command, "-f", name],
        input=path.read_bytes(),
        capture_output=True,
        check=False,
    )
    shown = "stdin" if from_stdin else name
    problem = f"failed to execute command: {shown}: line 5: byte 0xe9 is not UTF-8 text: save the file as UTF-8\n"
    assert (result.returncode, result.stderr.decode()) == (1, problem)


@pytest.mark.parametrize("command", ["get nodess", "delete nodess x", "label nodess x a=b", "patch nodess x -p {}"])
def test_an_unknown_kind_is_answered_with_the_kinds(command: str) -> None:
    first, second = told(command).stderr.splitlines()
    assert first.endswith("resource type 'nodess' is not supported")
    assert second == f"the kinds are: {', '.join(TYPED)}"


def test_what_nobody_thought_of_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> int:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(calicoctl.main, "_run", fail)
    outcome = run_calicoctl(MemoryDatastore(), ["get", "np"], {})
    problem = "calicoctl failed by a mistake of its own: ZeroDivisionError: by zero (--log-level=debug shows where)\n"
    assert outcome == (1, "", problem)


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("error", False)])
def test_its_stack_is_shown_to_those_who_look(monkeypatch: pytest.MonkeyPatch, level: str, shown: bool) -> None:
    def fail(name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(calicoctl.main, "_commands", fail)
    outcome = run_calicoctl(MemoryDatastore(), ["-l", level, "get", "np"], {})
    assert outcome.status == 1
    assert ("Traceback" in outcome.stderr) is shown


def test_an_argument_that_is_not_utf_8_is_named() -> None:
    outcome = run_calicoctl(MemoryDatastore(), ["get", "np", "\udcff"], {})
    assert outcome == (1, "", "argument 3, '\\xff', is not UTF-8 text\n")
    assert run_calicoctl(MemoryDatastore(), ["get", "np", "\u00e9"], {}).status == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("-1s", "-1s is negative: give a time such as 5s"),
        ("1", 'time: missing unit in duration "1"'),
        ("x", "duration"),
    ],
)
def test_a_poll_interval_is_a_time(text: str, problem: str) -> None:
    outcome = run_calicoctl(MemoryDatastore(), ["version", f"--poll={text}"], {})
    assert (outcome.status, outcome.stdout) == (1, "")
    assert re.match(rf"invalid poll interval specified: .*{re.escape(problem)}", outcome.stderr)


def test_an_empty_address_is_no_question_for_all() -> None:
    outcome = run_calicoctl(MemoryDatastore(), ["ipam", "show", "--ip="], {})
    assert outcome == (1, "Error executing command: invalid IP address specified: \n", "")


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("kind: GlobalNetworkSetList\nmore: 1\nitems: []\n", "field in document is not recognized .*: more"),
        ("kind: TierList\nmetadata: {name: a}\nitems: []\n", "field in document is not recognized .*: name"),
        ("kind: FooList\nitems: []\n", r"unknown resource type \(FooList\) and/or version \(projectcalico.org/v3\)"),
        ("kind: TierList\nmetadata: x\nitems: []\n", "cannot unmarshal string into .* TierList.metadata"),
    ],
)
def test_a_list_is_read_strictly(document: str, problem: str) -> None:
    outcome = told("validate -f in.yaml", GOOD, f"apiVersion: projectcalico.org/v3\n{document}")
    assert outcome.status == 1
    first, *notes = outcome.stderr.splitlines()
    assert re.search(problem, first)
    assert notes == ["in.yaml, in the document that begins at line 6", "nothing was done"]


def test_a_list_of_kubernetes_is_none_of_ours() -> None:
    item = "".join(f"  {line}\n" for line in GOOD.splitlines())
    outcome = told("apply -f in.yaml", f"apiVersion: v1\nkind: List\nitems:\n-{item[1:]}")
    assert outcome.stderr.splitlines()[0] == (
        "failed to execute command: unknown resource type (List) and/or version (v1)"
    )


@pytest.mark.parametrize("recursive", [[], ["--recursive"]])
def test_a_link_that_leads_nowhere_stops_all(tmp_path: Path, recursive: list[str]) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").symlink_to("absent.yaml")
    outcome = run_calicoctl(MemoryDatastore(), ["apply", "-f", str(tmp_path), *recursive], {})
    problem = f"failed to execute command: open {tmp_path}/b.yaml: no such file or directory\n"
    assert outcome == (1, "", problem)


@pytest.mark.parametrize("kind", ["[NetworkSet]", "{a: b}"])
def test_a_kind_that_is_no_text_is_named_with_its_line(kind: str) -> None:
    outcome = told("validate -f in.yaml", GOOD, f"apiVersion: projectcalico.org/v3\nkind: {kind}\n")
    first, second, _ = outcome.stderr.splitlines()
    assert first.endswith("into Go struct field TypeMeta.kind of type string")
    assert second.startswith("in.yaml, line 7: ")
