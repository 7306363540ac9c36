"""`/metrics` of the daemon, where the environment wants it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

from libcalico.errors import BadData
from libcalico.obs import http
from libcalico.obs.figures import Figures, Source
from libcalico.text import shown

log = logging.getLogger(__name__)

PORT = re.compile("[0-9]{1,5}", re.ASCII)
LARGEST_PORT = 65535
RETRY_S = 10.0


class Address(NamedTuple):
    """Where to listen; without a host, at all addresses."""

    host: str
    port: int


def metrics_address(environment: Mapping[str, str]) -> Address | None:
    """What the environment says; None: nowhere. Raises `BadData` for a port that is none."""
    text = environment.get("CALICO_CONFD_METRICS_PORT", "").strip()
    if not PORT.fullmatch(text or "0") or int(text or "0") > LARGEST_PORT:
        raise BadData(
            f'CALICO_CONFD_METRICS_PORT is "{shown(text)}": set it to a port from 1 to 65535, or to 0 for none'
        )
    if not int(text or "0"):
        return None
    return Address(environment.get("CALICO_CONFD_METRICS_HOST", "localhost").strip(), int(text))


async def serve_metrics(address: Address, source: Source) -> None:
    """For ever; a port that cannot be had is tried until it can."""
    from libcalico.obs.metrics import CONTENT_TYPE, Metrics  # three megabytes, for those who ask for it

    figures = Figures()
    figures.add(source)
    metrics = Metrics(figures)
    routes = {"/metrics": lambda: http.Answer(200, CONTENT_TYPE, metrics.render())}
    complaint = ""
    while True:
        try:
            listener = await http.listen(*address)
        except (OSError, UnicodeError) as error:
            if str(error) != complaint:
                log.warning("metrics: cannot listen on %s port %d, tried until it works: %s", *address, error)
            complaint = str(error)
            await asyncio.sleep(RETRY_S)
            continue
        log.info("/metrics on %s port %d", *address)
        await http.Server(listener, routes).run()
