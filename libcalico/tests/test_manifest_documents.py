"""A file's objects, each with its place, or with what is wrong with it."""

from __future__ import annotations

from libcalico.manifest import documents

HEAD = b"apiVersion: projectcalico.org/v3\n"
NODE = HEAD + b"kind: Node\nmetadata: {name: a}\n"


def test_objects_have_their_lines() -> None:
    loaded, problems = documents.read("in.yaml", NODE + b"---\n---\n" + NODE)
    assert problems == []
    assert [one.origin for one in loaded] == ["in.yaml, line 1", "in.yaml, line 6"]
    assert [one.resource.metadata.name for one in loaded] == ["a", "a"]


def test_what_cannot_be_read_hides_nothing_else() -> None:
    wrong = HEAD + b"kind: Node\nmetadata: {name: b}\nspec:\n  bgpp: {}\n"
    loaded, problems = documents.read("in.yaml", wrong + b"---\n" + HEAD + b"kind: Nod\n---\n" + NODE)
    assert [one.resource.metadata.name for one in loaded] == ["a"]
    assert [problem.where for problem in problems] == [
        "in.yaml, line 5: Node(b)",
        "in.yaml, line 7: Nod(without a name)",
    ]
    assert problems[1].hint.startswith("there is no such kind; the kinds are: ")


def test_a_file_without_objects() -> None:
    assert documents.read("in.yaml", b"") == ([], [])
    _loaded, problems = documents.read("in.yaml", b"# a comment\n")
    assert [problem.where for problem in problems] == ["in.yaml, line 1: no object"]


def test_bytes_that_are_no_text() -> None:
    loaded, problems = documents.read("in.yaml", b"kind: \xff\n")
    assert (loaded, len(problems), str(problems[0].error).startswith("in.yaml: ")) == ([], 1, True)
