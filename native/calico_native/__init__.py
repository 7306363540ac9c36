"""Calico's compiled fast paths, and their pure-Python twins.

Each module is one source file in `calico_native/py/`, built twice: compiled by Cython as `calico_native.<name>`,
and importable as it stands as `calico_native.py.<name>`, the oracle that the tests compare with. What you get by
`from calico_native import expression` is the compiled one, or the twin when `CALICO_NO_NATIVE=1` is set or the
compiled one was not built. `implementation` says which: "compiled" or "python".
"""

from __future__ import annotations

import importlib
import os
import sys

MODULES = ("bitmap", "expression", "label_index", "net", "netns", "nfnl", "rules")


def _load() -> str:
    if os.environ.get("CALICO_NO_NATIVE") != "1":
        try:
            for name in MODULES:
                importlib.import_module(f"calico_native.{name}")
            return "compiled"
        except ImportError as error:
            if getattr(error, "name", None) not in {f"calico_native.{name}" for name in MODULES}:
                raise
    for name in MODULES:
        module = importlib.import_module(f"calico_native.py.{name}")
        sys.modules[f"calico_native.{name}"] = module
        globals()[name] = module
    return "python"


implementation = _load()
