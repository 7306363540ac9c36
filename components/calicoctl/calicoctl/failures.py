"""How a command that fails says so: upstream's text, which scripts compare to the byte, and then notes for people.

The notes of an error (`add_note`) name the object, the file and the line, or what would have been right. They are
printed below the error when stderr is a terminal, or when `--log-level` asks for errors or more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from calicoctl import start
from libcalico.errors import CalicoError

MOST_NOTES = 200
LONGEST_WORD = 200


class CommandFailed(CalicoError):
    """The command cannot go on; its text is printed as it stands."""

    def __init__(self, text: str, to_stdout: bool = False) -> None:
        self.to_stdout = to_stdout
        super().__init__(text)


def failed_by(error: CalicoError, text: str, to_stdout: bool = False) -> CommandFailed:
    """A failure in upstream's words, with the notes of its cause."""
    failure = CommandFailed(text, to_stdout)
    for note in notes_of(error):
        failure.add_note(note)
    return failure


def notes_of(error: CalicoError) -> list[str]:
    """The notes that an error carries."""
    return list(getattr(error, "__notes__", ()))


def notes_are_shown() -> bool:
    """Does a person read them?"""
    return sys.stderr.isatty() or start.logs_errors()


def show_notes(notes: Iterable[str]) -> None:
    """Print notes where people read; of very many the first, and the last, which says what was done."""
    if not notes_are_shown():
        return
    shown = list(notes)
    if len(shown) > MOST_NOTES:
        shown[MOST_NOTES - 2 : -1] = [f"... and {len(shown) - MOST_NOTES + 1} more lines"]
    for note in shown:
        print(note, file=sys.stderr)


def several(words: Sequence[str], most: int = 8) -> str:
    """A list for a sentence; of a long one the beginning and the number of the others."""
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(one if len(one) <= LONGEST_WORD else f"{one[:LONGEST_WORD]}..." for one in words[:most]) + rest
