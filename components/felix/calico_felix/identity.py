"""Which cluster this host belongs to: the clusterGUID of the datastore that its agent first followed, kept in a file.

A datastore that lost its data and was initialised again, by a new host or by any client that stores an object, has
another one. Its agents would find no container in it; they wait instead, with their rules in force (ADR 57)."""

from __future__ import annotations

import logging
from pathlib import Path

from calico_felix.startup.names import write_whole
from libcalico.errors import BadData
from libcalico.files import read_regular
from libcalico.text import shown

log = logging.getLogger(__name__)

FILE = "clusterguid"
LONGEST = 256


class ClusterIdentity:
    """The GUID in `folder`, the agent's StateDirectory; a host without one takes the first that it meets."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / FILE
        self._known = self._read()

    def _read(self) -> str:
        try:
            return read_regular(self._path, LONGEST).decode().strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            log.warning(
                "%s cannot be read: whatever cluster the datastore is of is taken for this host's: %s",
                self._path,
                error,
            )
            return ""

    def objection(self, guid: str) -> str:
        """Why a datastore with this clusterGUID is not this host's; empty if it is. One without any may be."""
        guid = guid.strip()
        if not self._known or not guid or guid == self._known:
            return ""
        return (
            f"the datastore is of another cluster (clusterGUID {shown(guid)}; this host belongs to {self._known}): it"
            " was initialised again after it lost its data, or the endpoints are another cluster's. Restore etcd's data"
            f" or correct the endpoints; to move this host on purpose, remove {self._path}: containers that run and are"
            " not in the datastore are then cut off"
        )

    def keep(self, guid: str) -> None:
        """The agent follows a datastore with this clusterGUID."""
        guid = guid.strip()
        if not guid or guid == self._known:
            return
        if len(guid.encode()) > LONGEST:
            log.warning("the cluster's identity is not kept: its clusterGUID has more than %d octets", LONGEST)
            return
        self._known = guid
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_whole(self._path, guid)
        except (BadData, OSError) as error:
            log.warning("the cluster's identity is not kept: %s", error)
