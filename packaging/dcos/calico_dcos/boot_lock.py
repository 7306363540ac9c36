"""The lock that all agents of a cluster take in ZooKeeper while one of them makes Docker's network, and who made it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, LockTimeout, NodeExistsError, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.retry import KazooRetry
from kazoo.security import make_digest_acl

HOSTS, PREFIX = "leader.mesos:2181", "/cluster/boot/calico-libnetwork-plugin"
SESSION_S, LOCK_S = 30.0, 30.0


class LockError(Exception):
    """ZooKeeper cannot be reached, or another agent keeps the lock; the text says which."""


class BootLock:
    """One session. `held()` is the lock; `created_by` and `set_created_by` are for its holder."""

    def __init__(self, hosts: str, user: str, secret: str) -> None:
        pauses = {"delay": 0.3, "backoff": 1.3, "max_delay": 3.0}
        digest = bool(user and secret)
        self._hosts = hosts
        self._client = KazooClient(
            hosts=hosts,
            timeout=SESSION_S,
            connection_retry=KazooRetry(max_tries=-1, **pauses),
            command_retry=KazooRetry(max_tries=3, **pauses),
            default_acl=[make_digest_acl(user, secret, all=True)] if digest else None,
            auth_data=[("digest", f"{user}:{secret}")] if digest else None,
        )

    @contextmanager
    def held(self, contender: str) -> Iterator[None]:
        """Connect, take the lock, give it back. Raises `LockError`."""
        try:
            self._client.start(timeout=SESSION_S)
            lock = self._client.Lock(f"{PREFIX}/mutex", contender)
            lock.acquire(timeout=LOCK_S)
        except KazooTimeoutError:
            self._close()
            raise LockError(f"ZooKeeper at {self._hosts} does not answer within {SESSION_S:.0f} s") from None
        except LockTimeout:
            self._close()
            raise LockError(f"{PREFIX}/mutex is held by another agent for more than {LOCK_S:.0f} s") from None
        except KazooException as error:
            self._close()
            raise LockError(f"lock {PREFIX}/mutex: {error!r}") from None
        try:
            yield
        finally:
            with suppress(KazooException, KazooTimeoutError):
                lock.release()
            self._close()

    def created_by(self) -> str:
        """Who made the network; empty if nobody did. Raises `LockError`."""
        try:
            return str(self._client.get(f"{PREFIX}/created_by")[0].decode("utf-8", "replace"))
        except NoNodeError:
            return ""
        except KazooException as error:
            raise LockError(f"read {PREFIX}/created_by: {error!r}") from None

    def set_created_by(self, name: str) -> None:
        """Say who made it. Raises `LockError`."""
        path, value = f"{PREFIX}/created_by", name.encode()
        try:
            self._client.create(path, value, makepath=True)
        except NodeExistsError:
            self._client.set(path, value)
        except KazooException as error:
            raise LockError(f"write {path}: {error!r}") from None

    def _close(self) -> None:
        with suppress(KazooException, KazooTimeoutError):
            self._client.stop()
            self._client.close()
