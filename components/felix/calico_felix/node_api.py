"""The node API's answers about the agent itself (`Node` of libcalico/rpc/node.proto)."""

from __future__ import annotations

from typing import Any

import calico_native
from calico_felix.dataplane.loop import Dataplane
from libcalico import __version__
from libcalico.obs.figures import Figures, reply_of
from libcalico.rpc import grpc
from libcalico.rpc import node_pb2 as pb
from libcalico.rpc import node_pb2_grpc as stubs


class NodeApi(stubs.NodeServicer):  # type: ignore[misc]
    """What the agent believes."""

    def __init__(self, host: str, dataplane: Dataplane, figures: Figures) -> None:
        self._host = host
        self._dataplane = dataplane
        self._figures = figures

    async def Status(self, _request: Any, _context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Revisions, counts, and what is still pending."""
        dataplane = self._dataplane
        return pb.StatusReply(
            node=self._host,
            version=__version__,
            in_sync=dataplane.programmed_revision > 0,
            pending=dataplane.pending(),
            native=calico_native.implementation,
            **reply_of(self._figures.read()),
        )
