"""Calico for Python: what scripts import.

`Client` is the way in; the rooms below it are `model` (objects), `selector`, `policy` (the meaning of policies),
`ipam`, `datastore`, `workload` and `kernel`. `Client` is loaded on first use, so that importing a pure room costs
nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libcalico.client.blocking import Client

__all__ = ["Client"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Client":
        from libcalico.client.blocking import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
