"""From actual to desired state: the difference tracker, the generic reconciler, and when to try again."""

from libcalico.reconcile.backoff import Backoff
from libcalico.reconcile.delta import Delta
from libcalico.reconcile.reconciler import Driver, Failure, Reconciler, Status

__all__ = ["Backoff", "Delta", "Driver", "Failure", "Reconciler", "Status"]
