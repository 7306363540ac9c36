"""Help tells what is there, and a command line that does not fit is told why."""

from __future__ import annotations

import re

import pytest

from calicoctl import command_line
from calicoctl.testing import run_calicoctl
from libcalico.datastore.memory import MemoryDatastore
from libcalico.manifest.kinds import TYPED
from libcalico.model import kind_of_word


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("get nodes --foo", "calicoctl get: there is no option '--foo'."),
        ("get nodes -x", "calicoctl get: there is no option '-x'."),
        ("get nodes -o", "calicoctl get: -o requires argument."),
        (
            "get np --all",
            "calicoctl get: '--all' may be --all-namespaces or --allow-version-mismatch: write it whole.",
        ),
        (
            "get np -n a --namespace=b",
            "calicoctl get: the option --namespace is there more than once.",
        ),
        ("get -o yaml", "calicoctl get: name a kind, or a file with --filename=FILE."),
        ("get np -a -A", "calicoctl get: an argument is missing, is one too many, or does not go with the others."),
        ("apply -n shop in.yaml", "calicoctl apply: name the file with --filename=in.yaml."),
        ("get", "calicoctl get: name a kind, or a file with --filename=FILE."),
        (
            "get node --file x",
            "calicoctl get: an argument is missing, is one too many, or does not go with the others.",
        ),
        ("apply foo.yaml", "calicoctl apply: name the file with --filename=foo.yaml."),
        ("create --skip-ex", "calicoctl create: name the file with --filename=FILE."),
        ("patch node", "calicoctl patch: an argument is missing, is one too many, or does not go with the others."),
    ],
)
def test_a_command_line_that_does_not_fit_is_told_why(line: str, reason: str) -> None:
    outcome = run_calicoctl(MemoryDatastore(), line.split(), {})
    assert outcome.status == 1
    assert outcome.stderr.startswith("Usage:\n")
    assert outcome.stderr.splitlines()[-1] == f"{reason} Use flag '--help' to read about it."


@pytest.mark.parametrize("word", ["split", "configure", "frob"])
def test_a_subcommand_that_is_not_there_fails(word: str) -> None:
    outcome = run_calicoctl(MemoryDatastore(), ["ipam", word], {})
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(f'unknown command: "ipam {word}"\nUsage:\n')
    assert outcome.stderr.endswith("calicoctl ipam: the subcommands are: show, check, release\n")


def test_help_offers_what_is_there() -> None:
    assert "repair" not in command_line.TOP
    assert "go-template are not there" in " ".join(command_line.COMMANDS["get"].split()).replace(
        "and go-template-file ", ""
    )
    assert [f"ipam {name}" for name in command_line.IPAM] == [
        name for name in command_line.COMMANDS if name.startswith("ipam")
    ]


def test_help_lists_every_kind() -> None:
    (listed,) = re.findall(r"<KIND> is one of (.*), in any case", " ".join(command_line.COMMANDS["get"].split()))
    kinds = [kind_of_word(word) for word in re.findall(r"\w+", listed)]
    assert {kind for kind in kinds if kind} == set(TYPED)
    assert None not in kinds
    for command in ("delete", "patch", "label"):
        assert listed in " ".join(command_line.COMMANDS[command].split())
