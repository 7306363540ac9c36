"""Calico's compiled fast paths, and their pure-Python twins.

Each module is one source file in `calico_native/py/`, built twice: compiled by Cython as `calico_native.<name>`,
and importable as it stands as `calico_native.py.<name>`, the oracle that the tests compare with. What you get by
`from calico_native import expression` is the compiled one, or the twin when `CALICO_NO_NATIVE=1` is set or the
compiled ones were not built (they are built together). `implementation` says which: "compiled" or "python". A compiled
module is loaded when it is first imported: `ctypes` and `socket`, which some need, take longer than a short command.
"""

from __future__ import annotations

import importlib
import os
import sys

MODULES = ("bitmap", "expression", "label_index", "net", "netns", "nfnl", "nfrule", "rules")


def _load() -> str:
    if os.environ.get("CALICO_NO_NATIVE") != "1":
        probe = f"calico_native.{MODULES[0]}"
        try:
            importlib.import_module(probe)
            return "compiled"
        except ImportError as error:
            if getattr(error, "name", None) != probe:
                raise
    for name in MODULES:
        module = importlib.import_module(f"calico_native.py.{name}")
        sys.modules[f"calico_native.{name}"] = module
        globals()[name] = module
    return "python"


implementation = _load()
