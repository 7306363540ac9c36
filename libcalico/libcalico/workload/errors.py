"""How attaching and detaching a workload fails, whoever asks. Each front has its own form for these.

Everything else that a step raises is an error of `libcalico.errors`: `DatastoreError` when etcd does not answer,
`ValidationError` for names that cannot be stored, `KernelError` for what the kernel refuses.
"""

from __future__ import annotations

from libcalico.errors import BadData, Unavailable


class Refused(BadData):
    """It cannot be done as it was asked for, now or later."""


class BadRequest(Refused):
    """The request itself is wrong: an id, a path, an address."""


class OutOfOrder(Refused):
    """The step needs another one, which the text names, to be done before; nothing was done."""


class TryAgain(Unavailable):
    """The step was not done, and may succeed later; the text says so."""


class NotReady(Unavailable):
    """The cluster's datastore is locked for now."""

    def __init__(self) -> None:
        super().__init__("Calico is currently not ready to process requests")


class CallerGone(TryAgain):
    """The caller of a step has ended or given up: nothing more is done for it."""

    def __init__(self) -> None:
        super().__init__("the caller went away: try again later")
