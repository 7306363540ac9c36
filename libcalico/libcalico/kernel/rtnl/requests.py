"""What the requests about all kinds of objects share."""

from __future__ import annotations

import socket

from libcalico.kernel import nlmsg
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import NetlinkSocket

CREATE = nlmsg.NLM_F_CREATE | nlmsg.NLM_F_EXCL
REPLACE = nlmsg.NLM_F_CREATE | nlmsg.NLM_F_REPLACE


class RouteNetlink(NetlinkSocket):
    """Route netlink of our namespace, or of the one whose handle is at `netns_path`."""

    def __init__(self, netns_path: str = "") -> None:
        super().__init__(socket.NETLINK_ROUTE, netns_path)

    def delete_object(self, operation: str, kind: int, body: bytes) -> bool:
        """Delete one object; False when it was not there."""
        try:
            self.request(operation, kind, 0, body)
        except KernelError as error:
            if error.gone:
                return False
            raise
        return True
