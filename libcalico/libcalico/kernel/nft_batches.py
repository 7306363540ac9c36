"""Change an nftables table without libnftables: one netlink batch, one atomic commit.

For what changes most often in a running agent: members of sets, and the chains of endpoints and their policies.
`docs/adr/0029-element-batches.md` and `docs/adr/0067-rule-batches.md` have the figures.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

from calico_native import nfnl, nfrule
from libcalico.kernel import nlmsg
from libcalico.kernel.errors import KernelError
from libcalico.kernel.nlsocket import NetlinkSocket
from libcalico.net import Cidr

log = logging.getLogger(__name__)

_NETLINK_NETFILTER = 12
_SO_SNDBUFFORCE = 32
LARGEST_BATCH_BYTES = 16 << 20
"""A batch must go out in one datagram; what is larger is for libnftables."""

ANSWER_TIMEOUT_S = 30.0

Change = tuple[bool, str, str, bool, Sequence[str | Cidr] | None]
"""(add, set, type, interval, elements): see `calico_native.nfnl.encode_batch`."""


Command = tuple[str, str, str, str, Change | None]
"""(verb, kind, name, rest, elements): see `calico_native.nfrule.encode_commands`."""


class _Refused(KernelError):
    """The kernel refused a batch: nothing was done."""


class NftBatches(NetlinkSocket):
    """Changes one `inet` table; one thread at a time."""

    def __init__(self, table: str, netns_path: str = "") -> None:
        super().__init__(_NETLINK_NETFILTER, netns_path)
        self._expect_much()
        self._set(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * LARGEST_BATCH_BYTES)
        self._socket.bind((0, 0))
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._table = table

    def commit(self, changes: Sequence[Change]) -> bool:
        """All changes of elements in one transaction; False when they are none of those that a batch can do, and
        nothing was done.

        Raises `KernelError`, naming the set: the kernel refused one, and nothing was done."""
        return self._commit(lambda: nfnl.encode_batch(self._table, changes))

    def commit_commands(self, commands: Sequence[Command]) -> bool:
        """Commands of all kinds in one transaction; False when nothing was done: no batch can do one of them, or the
        kernel refused one, and libnftables can say why.

        Raises `KernelError`: the kernel did not answer, and what was done is not known."""
        try:
            return self._commit(lambda: nfrule.encode_commands(self._table, commands))
        except _Refused as error:
            log.info("a batch was refused (%s): libnftables writes it", error)
            return False

    def _commit(self, encode: Callable[[], tuple[bytes, list[str]]]) -> bool:
        try:
            batch, names = encode()
        except (ValueError, OSError):
            return False
        if len(batch) > LARGEST_BATCH_BYTES:
            return False
        if not names:
            return True
        self._drop_answers()  # a commit that failed is answered twice
        try:
            self._socket.send(batch)
        except OSError:  # it is too large for the socket, say: the kernel has not seen it
            return False
        try:
            self._read_answers(names)
        except OSError as error:  # what was done is not known
            self._drop_answers()
            raise KernelError("change an nftables table", error.errno or 0, error.strerror or str(error)) from error
        return True

    def _drop_answers(self) -> None:
        """Those that are left must not be taken for the next batch's."""
        self._socket.settimeout(0)
        try:
            with contextlib.suppress(OSError):
                while True:
                    self._receive()
        finally:
            self._socket.settimeout(ANSWER_TIMEOUT_S)

    def _read_answers(self, names: list[str]) -> None:
        """The kernel has queued every answer when `send` returns: errors, and the last message's acknowledgement."""
        failure: _Refused | None = None
        while True:
            for kind, flags, sequence, payload in nlmsg.decode_messages(self._receive()):
                if kind != nlmsg.NLMSG_ERROR:
                    continue
                number, words = nlmsg.decode_error(flags, payload)
                if number and failure is None:
                    name = names[sequence - 1] if 0 < sequence <= len(names) else "?"
                    failure = _Refused(f"change {name}", number, words)
                if sequence == len(names) or (number and not 0 < sequence <= len(names)):
                    if failure is not None:
                        raise failure
                    return
