"""The CNI protocol: `handle` answers one call. The agent serves it to the C shim; the fallback calls it in-process."""

from libcalico.cni.handler import handle
from libcalico.cni.request import CniAnswer, CniRequestData

__all__ = ["CniAnswer", "CniRequestData", "handle"]
