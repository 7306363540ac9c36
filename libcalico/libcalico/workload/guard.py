"""The guard: with no policy table in the kernel, everything from and to a workload interface is dropped.

A workload that is wired up while no agent runs stays closed until an agent starts and programs its policy.
"""

from __future__ import annotations

import logging

from libcalico.kernel.nft import Nft, NftError
from libcalico.policy.nft.base import guard_text
from libcalico.policy.nft.names import TABLE

_log = logging.getLogger(__name__)


def ensure_guard(host_netns: str = "") -> bool:
    """Put the guard in place unless a table stands already (an agent's, or the guard); True when it was made.

    One transaction that begins with `create table`: it cannot overwrite a table that an agent makes meanwhile."""
    with Nft(host_netns) as nft:
        if nft.list_json(f"table {TABLE}"):
            return False
        try:
            nft.run(f"create table {TABLE}\n{guard_text()}")
        except NftError as error:
            if "File exists" in error.text:
                return False
            raise
    _log.warning("no policy table stands: everything from and to workloads is dropped until an agent programs it")
    return True
