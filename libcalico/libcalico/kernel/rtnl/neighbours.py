"""Requests about neighbour entries and the forwarding entries of VXLAN devices."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from libcalico.kernel import objects
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import Request
from libcalico.kernel.objects import Neighbour
from libcalico.kernel.rtnl.requests import CREATE, REPLACE, RouteNetlink


class NeighbourRequests(RouteNetlink):
    """Neighbours: read, written, kept from being dropped."""

    def neighbours(self, device: int, family: int) -> list[Neighbour]:
        """Neighbour entries of an interface, 0 = of all; family `objects.AF_BRIDGE` = its FDB."""
        body = objects.encode_neighbour_dump(family, device)
        found = self.dump("list neighbours", objects.RTM_GETNEIGH, body, objects.decode_neighbour)
        return [entry for entry in found if device in {0, entry.device}]

    def replace_neighbour(self, entry: Neighbour) -> None:
        """Add, or change, a neighbour or FDB entry."""
        body = objects.encode_neighbour(entry)
        self.request(f"add neighbour {entry.address}", objects.RTM_NEWNEIGH, REPLACE, body)

    def apply_neighbours(
        self, deletes: Sequence[Neighbour], replaces: Sequence[Neighbour]
    ) -> dict[Neighbour, KernelError]:
        """Delete, then replace, neighbour and FDB entries; what failed, by entry."""
        requests = [Request(objects.RTM_DELNEIGH, 0, objects.encode_neighbour(entry)) for entry in deletes]
        requests += [Request(objects.RTM_NEWNEIGH, REPLACE, objects.encode_neighbour(entry)) for entry in replaces]
        entries = [*deletes, *replaces]
        return {
            entries[index]: error
            for index, error in self.batch("program neighbour", requests).items()
            if index >= len(deletes) or not error.gone
        }

    def keep_neighbours(self, deletes: Sequence[Neighbour], kept: Sequence[Neighbour]) -> dict[Neighbour, KernelError]:
        """Delete, then see to it that each of `kept` has an entry that counts as learned; what failed, by entry.

        One that is there keeps its MAC; one that is not comes without, and the kernel finds it when it is needed."""
        failed = self.apply_neighbours(deletes, ())
        fresh = [Request(objects.RTM_NEWNEIGH, CREATE, objects.encode_neighbour(_learned(entry, objects.NUD_NONE)))
                 for entry in kept]  # fmt: skip
        refused = self.batch("keep neighbour", fresh)
        there = [kept[index] for index, error in refused.items() if error.errno == errno.EEXIST]
        failed |= {kept[index]: error for index, error in refused.items() if error.errno != errno.EEXIST}
        marks = [Request(objects.RTM_NEWNEIGH, REPLACE, objects.encode_neighbour(_learned(entry, objects.NUD_STALE)))
                 for entry in there]  # fmt: skip
        for index, error in self.batch("keep neighbour", marks).items():
            if error.errno != errno.EINVAL:  # no MAC is known yet: it is marked nevertheless
                failed[there[index]] = error
        return failed


def _learned(entry: Neighbour, state: int) -> Neighbour:
    return entry._replace(mac="", state=state, learned=True)
