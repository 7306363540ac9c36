"""Where the fallback's log lines go: stderr. Those of a call go to the file that its configuration names as well
(`libcalico.cni.call_log`). Never to stdout."""

from __future__ import annotations

import json
import logging
import sys

from libcalico.cni.call_log import LEVELS
from libcalico.obs.logs import LineFormatter

_FORMAT = "%(asctime)s [%(levelname)s] %(process)d %(name)s: %(message)s"


def configure(stdin: bytes) -> None:
    """Set up logging by `log_level`. What is wrong in it is passed over: the call itself says so if it matters."""
    try:
        conf = json.loads(stdin or b"{}")
    except (ValueError, RecursionError):
        conf = {}
    conf = conf if isinstance(conf, dict) else {}
    level = LEVELS.get(str(conf.get("log_level", "")).lower(), logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(_FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
