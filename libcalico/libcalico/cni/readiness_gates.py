"""Readiness gates: URLs that must answer before ADD goes on (spec/cni.md 2.3). Rare, so imported late."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from libcalico.cni import errors
from libcalico.cni.errors import CniError

POLL_S = 5.0
LIMIT_S = 30.0


def check_urls(urls: Sequence[str]) -> None:
    """`CniError` for what is no absolute URL."""
    for url in urls:
        parts = urlsplit(url)
        if not parts.scheme and not url.startswith("/"):
            cause = f'parse "{url}": invalid URI for request'
            raise CniError(errors.GENERAL, f"invalid URL set for ReadinessGates:{url} Error:{cause}")


async def wait_ready(urls: Sequence[str]) -> None:
    """Each URL answers with a 2xx or 3xx status, asked every 5 s for 30 s at most."""
    for url in urls:
        try:
            async with asyncio.timeout(LIMIT_S):
                while not await asyncio.to_thread(_answers, urlsplit(url)):
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            text = f"readiness gate {url} did not answer with success in {LIMIT_S:.0f} s: try again later"
            raise CniError(errors.TRY_AGAIN, text) from None


def _answers(url: SplitResult) -> bool:
    host = url.hostname or "localhost"
    if url.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, url.port, timeout=3, context=context)
    else:
        connection = http.client.HTTPConnection(host, url.port, timeout=3)
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
