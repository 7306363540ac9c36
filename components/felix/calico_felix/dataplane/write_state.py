"""How far the kernel's table is what it should be: the states of the ruleset's writer, as a table.

Two things change by themselves while a transaction is at work: what the table should be (the graph), and what it is
(another process). A transaction takes a copy of the wanted table along, so what changes meanwhile makes the next one
necessary; what another process does meanwhile makes worthless what we know of the kernel's table.

    state             in the kernel         at work    wanted meanwhile
    WAITING           not known             -          nothing yet
    UNKNOWN           not known             -          a table
    DIRTY             the last one          -          another
    CLEAN             the last one          -          the same
    WRITING           the last one, or all  one        nothing more
    WRITING_DIRTY     the last one, or all  one        another
    WRITING_UNKNOWN   not known             one        a table
"""

from __future__ import annotations

from enum import Enum, auto

from libcalico.errors import Bug


class State(Enum):
    """Where the writer is."""

    WAITING = auto()
    """Nothing is known of the datastore: nothing is written, whatever stands."""
    UNKNOWN = auto()
    """The kernel may hold anything: the next transaction replaces all of it."""
    DIRTY = auto()
    """The kernel holds a table that is known, and another one is wanted: the next transaction is the difference."""
    CLEAN = auto()
    """The kernel holds what is wanted."""
    WRITING = auto()
    """A transaction is at work; when it has been accepted, all is clean."""
    WRITING_DIRTY = auto()
    """A transaction is at work, and more is wanted since it began."""
    WRITING_UNKNOWN = auto()
    """A transaction is at work, and another process has changed the table since it began."""


class Event(Enum):
    """What happens to it."""

    CHANGED = auto()
    """The wanted table is another one, or something else needs one more transaction."""
    SPOILED = auto()
    """Another process has changed the kernel's table, or may have."""
    BEGUN = auto()
    """A transaction has begun, with a copy of the wanted table."""
    STANDS = auto()
    """The kernel has accepted it."""
    REFUSED = auto()
    """The kernel, or libnftables, has refused it: nothing was done, and what stands may not be what we believe."""


_S, _E = State, Event

CHANGES: dict[State, dict[Event, State]] = {
    _S.WAITING: {_E.CHANGED: _S.UNKNOWN, _E.SPOILED: _S.WAITING},
    _S.UNKNOWN: {_E.CHANGED: _S.UNKNOWN, _E.SPOILED: _S.UNKNOWN, _E.BEGUN: _S.WRITING},
    _S.DIRTY: {_E.CHANGED: _S.DIRTY, _E.SPOILED: _S.UNKNOWN, _E.BEGUN: _S.WRITING},
    _S.CLEAN: {_E.CHANGED: _S.DIRTY, _E.SPOILED: _S.UNKNOWN},
    _S.WRITING: {
        _E.CHANGED: _S.WRITING_DIRTY, _E.SPOILED: _S.WRITING_UNKNOWN,
        _E.STANDS: _S.CLEAN, _E.REFUSED: _S.UNKNOWN,
    },
    _S.WRITING_DIRTY: {
        _E.CHANGED: _S.WRITING_DIRTY, _E.SPOILED: _S.WRITING_UNKNOWN,
        _E.STANDS: _S.DIRTY, _E.REFUSED: _S.UNKNOWN,
    },
    _S.WRITING_UNKNOWN: {
        _E.CHANGED: _S.WRITING_UNKNOWN, _E.SPOILED: _S.WRITING_UNKNOWN,
        _E.STANDS: _S.UNKNOWN, _E.REFUSED: _S.UNKNOWN,
    },
}  # fmt: skip
"""The allowed changes. Nothing begins before the first change, nor when all is clean, nor twice at once."""

TO_WRITE = frozenset({State.UNKNOWN, State.DIRTY})
"""A transaction is due."""
WHOLE_ANYWAY = frozenset({State.WAITING, State.UNKNOWN})
"""The next transaction takes no account of what stands, so what others do to it changes nothing."""


class Progress:
    """The state, and the only way to change it."""

    def __init__(self) -> None:
        self.state = State.WAITING

    def on(self, event: Event) -> None:
        """Something has happened; raises `Bug` when it cannot happen in this state."""
        after = CHANGES[self.state].get(event)
        if after is None:
            raise Bug(f"the ruleset's writer is {self.state.name}, and {event.name} came")
        self.state = after

    @property
    def is_due(self) -> bool:
        """A transaction is to be written."""
        return self.state in TO_WRITE

    @property
    def is_clean(self) -> bool:
        """The kernel holds what is wanted."""
        return self.state is State.CLEAN
