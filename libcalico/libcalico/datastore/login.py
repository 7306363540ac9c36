"""A user's token of etcd: asked for once, again when etcd does not know it any more, and not where nobody needs one.

As etcd's own Go client does (its shouldRefreshToken and getToken): a token is void after any change of users or roles
when tokens are JWTs, after minutes without use when they are not; with authentication off etcd gives none, and asks
for one as soon as authentication is switched on.
"""

from __future__ import annotations

from libcalico.datastore.members import Member
from libcalico.datastore.settings import EtcdConfig
from libcalico.rpc import grpc
from libcalico.rpc.etcd import etcd_pb2 as pb
from libcalico.rpc.etcd import etcd_pb2_grpc as stubs

TIMEOUT_S = 10.0
OFF = "authentication is not enabled"
VOID = ("invalid auth token", "revision of auth store is old", "user name is empty")
VOID_FOR_WATCHES = (*VOID, "permission denied")
"""etcd 3.4 says of a watch with a void token only that it is not permitted."""

Metadata = tuple[tuple[str, str], ...]


def is_void(text: str, watch: bool = False) -> bool:
    """Does etcd refuse the token, and not the request? It has then done nothing."""
    return any(reason in text for reason in (VOID_FOR_WATCHES if watch else VOID))


class Login:
    """The token that goes with every request. "" while authentication is off, None: no user is configured."""

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config
        self._token: str | None = None

    async def token(self, member: Member, void: str | None = None) -> str | None:
        """The token, asked for when there is none, or when it is the `void` one. Raises gRPC's errors."""
        if not (self._config.username and self._config.password):
            return None
        if self._token is not None and self._token != void:
            return self._token
        async with member.logging_in:
            if self._token is None or self._token == void:
                self._token = await self._authenticate(member)
            return self._token

    async def _authenticate(self, member: Member) -> str:
        request = pb.AuthenticateRequest(name=self._config.username, password=self._config.password)
        try:
            answer = await stubs.AuthStub(member.channel).Authenticate(
                request, timeout=TIMEOUT_S, metadata=self._config.metadata
            )
        except grpc.aio.AioRpcError as error:
            if OFF in (error.details() or ""):
                return ""
            raise
        return str(answer.token)

    def metadata(self, token: str | None) -> Metadata:
        """What goes with a request."""
        return (*self._config.metadata, ("token", token)) if token else self._config.metadata
