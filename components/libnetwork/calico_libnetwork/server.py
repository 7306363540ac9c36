"""Docker's plug-in transport: HTTP on UNIX sockets (spec/libnetwork.md 1).

aiohttp answers HTTP/1.0 with an HTTP/1.0 status line, which the readiness check of DC/OS looks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from calico_libnetwork.protocol import DriverError, Malformed, Reply
from libcalico.errors import CalicoError, DatastoreError
from libcalico.kernel.unix_socket import socket_place
from libcalico.text import shown

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/vnd.docker.plugins.v1.1+json"
LARGEST_BODY = 1 << 20
BODY_S = 10.0
CALL_S = 20.0
"""Docker waits without a limit, and holds locks of its network meanwhile."""
KEEP_ALIVE_S = 600.0
NOT_THERE = (0, 0)
"""In place of the device and the number of a file."""
GROUP, MODE = "docker", 0o660
Method = Callable[[bytes], Awaitable[Reply]]


class Server:
    """One socket with some of the methods, by their names (`NetworkDriver.Join`)."""

    def __init__(self, path: str, methods: Mapping[str, Method]) -> None:
        self._path = path
        self._methods = methods
        self._identity = NOT_THERE
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_route("*", "/{method:.*}", self._answer)
        self._runner = web.AppRunner(
            application,
            handle_signals=False,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            handler_cancellation=True,
        )

    async def start(self) -> None:
        """Listen. A socket that nobody listens on any more is replaced; raises `Unavailable` for one that is served."""
        os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
        await self._runner.setup()
        with socket_place(self._path):
            await web.UnixSite(self._runner, self._path).start()
        with contextlib.suppress(KeyError, OSError):
            os.chown(self._path, 0, grp.getgrnam(GROUP).gr_gid)
        os.chmod(self._path, MODE)
        self._identity = _identity(self._path)

    async def close(self) -> None:
        """Stop listening; the socket's file goes, if it is still this one's."""
        await self._runner.cleanup()
        with contextlib.suppress(OSError):
            if self._identity == _identity(self._path):
                os.unlink(self._path)

    async def _answer(self, request: web.Request) -> web.Response:
        name = request.match_info["method"]
        method = self._methods.get(name)
        if method is None:
            return web.Response(status=404, text=f"{shown(name)} is no method of {os.path.basename(self._path)}\n")
        try:
            async with asyncio.timeout(BODY_S):
                body = await request.read()
        except TimeoutError:
            return web.Response(status=408, text=f"the body did not come within {BODY_S:g} s\n")
        except web.HTTPRequestEntityTooLarge:
            return web.Response(status=413, text=f"the body has more than {LARGEST_BODY} bytes\n")
        return await _answered(name, method, body)


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


async def _answered(name: str, method: Method, body: bytes) -> web.Response:
    try:
        async with asyncio.timeout(CALL_S):
            return _json(200, await method(body))
    except Malformed as error:
        return web.Response(status=400, text=f"{name}: the body cannot be read: {shown(str(error))}\n")
    except DatastoreError as error:
        text = f"the datastore does not answer: {error}"
    except (DriverError, CalicoError) as error:
        text = str(error)
    except TimeoutError:
        text = f"not finished within {CALL_S:g} s: try again later"
    except Exception:
        log.exception("%s", name)
        text = "this is a mistake of the plug-in's; its log says where"
    log.warning("%s: %s", name, text)
    return _json(500, {"Err": text})


def _json(status: int, found: Mapping[str, Any]) -> web.Response:
    return web.Response(status=status, body=json.dumps(found).encode(), headers={"Content-Type": CONTENT_TYPE})
