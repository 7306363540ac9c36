"""What programs outside the tests, which show one fault each, start a machine's parts with.

The parts stand in `libcalico.testing`; tests take them from there."""

from libcalico.testing.etcd import Etcd
from libcalico.testing.machine import DIE_WITH_US, free_port

__all__ = ["DIE_WITH_US", "Etcd", "free_port"]
