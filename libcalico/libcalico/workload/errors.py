"""How attaching and detaching a workload fails, whoever asks. Each front has its own form for these.

Everything else that a step raises is an error of `libcalico.errors`: `DatastoreError` when etcd does not answer,
`BadData` for what cannot be done as it was asked for, `KernelError` for what the kernel refuses.
"""

from __future__ import annotations

from libcalico.errors import Unavailable


class TryAgain(Unavailable):
    """The step was not done, and may succeed later; the text says so."""


class CallerGone(TryAgain):
    """The caller of a step has ended or given up: nothing more is done for it."""

    def __init__(self) -> None:
        super().__init__("the caller went away: try again later")
