"""From actual to desired state: the difference tracker and the generic reconciler."""

from libcalico.reconcile.delta import Delta
from libcalico.reconcile.reconciler import Driver, Failure, Reconciler, Status

__all__ = ["Delta", "Driver", "Failure", "Reconciler", "Status"]
