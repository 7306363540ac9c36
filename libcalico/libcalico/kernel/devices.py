"""Devices that few hosts have: pyroute2 spells their requests, our own socket carries them (ADR 10, ADR 56)."""

from __future__ import annotations

import errno

from libcalico.kernel import nlmsg
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import Request
from libcalico.kernel.rtnl import Rtnl


def ipip_request(name: str) -> Request:
    """The request for an IPIP device without ends of its own; raises `KernelError` without pyroute2.

    Imports pyroute2, which takes a third of a second the first time: call it on a thread."""
    try:
        from pyroute2 import IPBatch
    except ImportError as error:
        raise KernelError(f"create link {name}", detail="the Python package pyroute2 is not installed") from error
    batch = IPBatch()
    try:
        batch.link("add", ifname=name, kind="ipip")
        message = memoryview(bytes(batch.batch))
    finally:
        batch.close()
    ((kind, flags, _sequence, body),) = nlmsg.decode_messages(message)
    return Request(kind, flags, bytes(body))


def create_device(rtnl: Rtnl, name: str, request: Request) -> bool:
    """Send a request for a device of that name; False when there is one. Raises `KernelError`.

    For an IPIP device the kernel loads its module, which brings `tunl0`: then the request finds it there. A kernel
    without the module answers EOPNOTSUPP."""
    try:
        rtnl.request(f"create link {name}", request.kind, request.flags, request.body)
    except KernelError as error:
        if error.errno == errno.EEXIST:
            return False
        raise
    return True
