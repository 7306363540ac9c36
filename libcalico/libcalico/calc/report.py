"""What is wrong with single objects: those that cannot be used, and what others demand in vain. Logged once each."""

from __future__ import annotations

import logging
from collections.abc import Callable

from libcalico.errors import BadData, ParsingDatastoreEntry
from libcalico.model.keys import Key
from libcalico.text import shown

log = logging.getLogger(__name__)


class Report:
    """`problems` and `unsupported` (objects that are in force, and what they demand in vain): object -> text."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.unsupported: dict[str, str] = {}
        self._is_noted = False

    def begin(self) -> None:
        """An object's news is looked at: what follows until `end` concerns it."""
        self._is_noted = False

    def end(self, key: Key) -> None:
        """The object's news is dealt with: without a problem noted meanwhile, it has none any more."""
        if self.problems and not self._is_noted:
            self.problems.pop(shown(key), None)

    def attempt(self, key: Key, step: Callable[[], None]) -> bool:
        """Do a step of one object. Whatever it raises concerns that object alone: False, and a problem."""
        try:
            step()
        except Exception as error:
            self.note(key, shown(error.cause if isinstance(error, ParsingDatastoreEntry) else error))
            if not isinstance(error, BadData):
                log.error("a mistake of the agent's own with %s", shown(key), exc_info=error)
            return False
        return True

    def note(self, key: Key | str, problem: str, what: str = "counts as absent") -> None:
        """An object, or a key that is none of ours (its text), has this problem."""
        self._is_noted = True
        name = key if isinstance(key, str) else shown(key)
        if self.problems.get(name) != problem:
            log.warning("%s %s until it is mended: %s", name, what, problem)
        self.problems[name] = problem

    def note_refused(self, key: Key, refused: str) -> None:
        """Rules that deny all instead of what they say; empty when they do not."""
        if refused:
            self.note(key, shown(f"it denies all: {refused}"), "is not enforced")

    def note_unsupported(self, key: Key, text: str) -> None:
        """What an object demands in vain; empty when that is nothing."""
        if not text:
            if self.unsupported:
                self.unsupported.pop(shown(key), None)
            return
        name, text = shown(key), f"not supported here: {shown(text)}"
        if self.unsupported.get(name) != text:
            log.warning("%s: %s", name, text)
        self.unsupported[name] = text
