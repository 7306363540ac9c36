"""Sets of the `ipset` kind, which a former agent in iptables mode leaves behind: listed and destroyed over netlink."""

from __future__ import annotations

import errno
import os
import struct

from libcalico.kernel import nlmsg
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import NetlinkSocket

_NETLINK_NETFILTER = 12
_NFNL_SUBSYS_IPSET = 6
_IPSET_CMD_DESTROY, _IPSET_CMD_LIST = 3, 7
_IPSET_ATTR_PROTOCOL, _IPSET_ATTR_SETNAME, _IPSET_ATTR_FLAGS = 1, 2, 6
_IPSET_PROTOCOL = 6
_IPSET_FLAG_LIST_SETNAME = 2
_NFGENMSG = struct.Struct("=BBH")
_BE32 = struct.Struct("!I")
_NLA_F_NET_BYTEORDER = 0x4000
_MODULE = "/sys/module/ip_set"


class Ipset(NetlinkSocket):
    """The sets of our network namespace, or of the one at `netns_path`."""

    def __init__(self, netns_path: str = "") -> None:
        super().__init__(_NETLINK_NETFILTER, netns_path)

    def names(self) -> list[str]:
        """Every set; none when the kernel part is not loaded (asking for the list would load it)."""
        if not os.path.isdir(_MODULE):
            return []
        flags = nlmsg.encode_attribute(_IPSET_ATTR_FLAGS | _NLA_F_NET_BYTEORDER, _BE32.pack(_IPSET_FLAG_LIST_SETNAME))
        kind = _NFNL_SUBSYS_IPSET << 8 | _IPSET_CMD_LIST
        return self.dump("list ipsets", kind, _head() + flags, _decode_name)

    def destroy(self, name: str) -> bool:
        """Destroy a set; False when something uses it still. Waits some 40 ms for RCU."""
        kind = _NFNL_SUBSYS_IPSET << 8 | _IPSET_CMD_DESTROY
        try:
            self.request(f"destroy ipset {name}", kind, 0, _head() + nlmsg.encode_text(_IPSET_ATTR_SETNAME, name))
        except KernelError as error:
            if not error.gone and error.errno not in _IN_USE:
                raise
            return error.gone
        return True


_IN_USE = {errno.EBUSY, 4100}  # IPSET_ERR_BUSY, of ipset alone


def _head() -> bytes:
    return _NFGENMSG.pack(0, 0, 0) + nlmsg.encode_u8(_IPSET_ATTR_PROTOCOL, _IPSET_PROTOCOL)


def _decode_name(body: memoryview) -> str | None:
    found = nlmsg.decode_attributes(body[_NFGENMSG.size :])
    return nlmsg.decode_text(found[_IPSET_ATTR_SETNAME]) if _IPSET_ATTR_SETNAME in found else None
