"""The node API's answers about the agent itself (`Node` of libcalico/rpc/node.proto)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import calico_native
from calico_felix.dataplane.loop import Dataplane
from libcalico import __version__
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs


class NodeApi(stubs.NodeServicer):  # type: ignore[misc]
    """What the agent believes."""

    def __init__(
        self, host: str, dataplane: Dataplane, seen_revision: Callable[[], int], started_s: Callable[[], float]
    ) -> None:
        self._host = host
        self._dataplane = dataplane
        self._seen_revision = seen_revision
        self._uptime_s = started_s

    async def Status(self, _request: Any, _context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Revisions, counts, and what is still pending."""
        dataplane = self._dataplane
        return pb.StatusReply(
            node=self._host,
            version=__version__,
            in_sync=dataplane.programmed_revision > 0,
            datastore_revision=self._seen_revision(),
            programmed_revision=dataplane.programmed_revision,
            local_endpoints=len(dataplane.ruleset.endpoints),
            active_policies=len(dataplane.ruleset.policies),
            ip_sets=len(dataplane.ruleset.table.sets),
            pending=dataplane.pending(),
            uptime_s=self._uptime_s(),
            native=calico_native.implementation,
        )
