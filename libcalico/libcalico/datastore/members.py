"""The members of an etcd cluster: a connection to each endpoint, and which of them is asked now.

One connection is opened when the first request is made. Where that takes longer than a moment, the other endpoints are
tried side by side with it, and the first that is there is asked: a dead or powered-off endpoint costs nothing. One
attempt may take as long as a handshake over a slow line does, and attempts go on until the caller's deadline.
Certificates that were renewed on disk are read again before a new attempt. Proxies of the environment are not used:
they are for the web.
"""

from __future__ import annotations

import asyncio
import logging

from libcalico.datastore import certificates
from libcalico.datastore.settings import EtcdConfig
from libcalico.errors import BadData, Unreachable
from libcalico.reconcile import Backoff
from libcalico.rpc import grpc

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
STAGGER_S = 0.05
NOT_READY_PAUSE = Backoff(0.001, 0.05, growth=1.5)
RENEW_INTERVAL_S = 0.5
EXPLAIN_TIMEOUT_S = 1.0
EXPLANATION_LASTS_S = 2.0
LARGEST_MESSAGE = 256 * 1024 * 1024
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # how long one attempt may take
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
)


class Member:
    """One endpoint. `left` is set when another one is asked instead: who listens here should go there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.scheme, _, address = url.partition("://")
        self.address = address.rstrip("/")
        self.channel: grpc.aio.Channel | None = None
        self.generation = 0
        self.left = asyncio.Event()
        self.logging_in = asyncio.Lock()

    def is_ready(self) -> bool:
        """Is there a connection?"""
        ready = grpc.ChannelConnectivity.READY
        return self.channel is not None and self.channel.get_state() is ready


class Members:
    """All endpoints. `trouble` says why none of them was reached when that was last tried, "" when one was."""

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config
        self._all = [Member(url) for url in config.endpoints]
        self.current = self._all[0]
        self.trouble = ""
        self._stamp = certificates.stamp(config.certificates)
        self._generation = 1
        self._tls = self._read_tls()
        self._credentials: grpc.ChannelCredentials | None = None
        self._renewed_s = 0.0
        self._explaining = asyncio.Lock()
        self._explained_s = 0.0

    def __len__(self) -> int:
        return len(self._all)

    def _read_tls(self) -> certificates.Tls:
        tls = certificates.read_tls(self._config.certificates)
        wants_tls = any(member.scheme == "https" for member in self._all)
        return certificates.with_system_store(tls) if wants_tls else tls

    async def connected(self, deadline_s: float, after: Member | None = None) -> Member:
        """A member that is connected: the current one, else the first that can be had; `after` one: rather another.

        `deadline_s` is the loop's time. Raises `Unreachable`, naming every endpoint and what is wrong with it."""
        place = self._all.index(self.current if after is None else after) + (after is not None)
        order = [*self._all[place:], *self._all[:place]]
        if order[0].is_ready():
            return order[0]
        clock = asyncio.get_running_loop().time
        begun_s, failures = clock(), 0
        while True:
            await self._renew()
            found = await self._first_ready(order, clock() - begun_s)
            if found is not None:
                self.trouble = ""
                if after is None:
                    self.prefer(found)
                return found
            if clock() >= deadline_s:
                raise Unreachable(await self._explain())
            failures += 1
            await asyncio.sleep(NOT_READY_PAUSE.pause_s(failures))

    async def _first_ready(self, order: list[Member], passed_s: float) -> Member | None:
        """Let all that should be tried by now connect; the next one's turn comes when those before it have failed."""
        turn_s = 0.0
        for member in order:
            if passed_s < turn_s:
                return None
            state = (await self._opened(member)).get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                return member
            if state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                turn_s += STAGGER_S
        return None

    async def _opened(self, member: Member) -> grpc.aio.Channel:
        """The member's channel, opened again if its certificates are no longer those of the disk."""
        former = member.channel
        if former is not None and (member.generation == self._generation or member.is_ready()):
            return former
        member.generation = self._generation
        member.channel = self._open(member)
        if former is not None:
            await former.close(None)
        return member.channel

    def _open(self, member: Member) -> grpc.aio.Channel:
        if member.scheme == "http":
            return grpc.aio.insecure_channel(member.address, options=_CHANNEL_OPTIONS)
        if self._credentials is None:
            self._credentials = grpc.ssl_channel_credentials(self._tls.authority, self._tls.key, self._tls.certificate)
        return grpc.aio.secure_channel(member.address, self._credentials, options=_CHANNEL_OPTIONS)

    async def _renew(self) -> None:
        """Read the certificates again when their files have changed; those that cannot be used change nothing."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._renewed_s < RENEW_INTERVAL_S:
            return
        self._renewed_s = now_s
        stamp = certificates.stamp(self._config.certificates)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tls, self._credentials = self._read_tls(), None
        except BadData as error:
            log.warning("the certificates have changed on disk and the former ones stay in use: %s", error)
            return
        log.info("the certificates have changed on disk: they are in use now")
        self._generation += 1

    def prefer(self, member: Member) -> None:
        """This member has answered: it is asked from now on."""
        former = self.current
        if member is former:
            return
        log.info("etcd is asked at %s instead of %s", member.url, former.url)
        self.current = member
        former.left.set()
        former.left = asyncio.Event()

    def move_on(self, member: Member) -> None:
        """This member has failed: another one is tried first."""
        if member is self.current and len(self) > 1:
            self.prefer(self._all[(self._all.index(member) + 1) % len(self)])

    async def _explain(self) -> str:
        """What is wrong, for all endpoints; found out once for all who wait."""
        from libcalico.datastore import diagnosis

        clock = asyncio.get_running_loop().time
        async with self._explaining:
            if not self.trouble or clock() - self._explained_s > EXPLANATION_LASTS_S:
                routes = [diagnosis.Route(one.url, self._tls, self._config.certificates) for one in self._all]
                reasons = await asyncio.to_thread(diagnosis.explain_all, routes, EXPLAIN_TIMEOUT_S)
                self.trouble = diagnosis.sentence(routes, reasons, self._config.source)
                self._explained_s = clock()
        return self.trouble

    async def close(self) -> None:
        """Close every connection."""
        for member in self._all:
            if member.channel is not None:
                await member.channel.close(None)
