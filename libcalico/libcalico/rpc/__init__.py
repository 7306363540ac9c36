"""gRPC: our node API (`node.proto`) and the etcd v3 API (`etcd/`), with the stubs compiled from them.

`channel` opens connections and servers on UNIX sockets. `python -m libcalico.rpc.generate` compiles the protos again.

`grpc` is loaded here, and by our modules from here only (`from libcalico.rpc import grpc`): it reads its variables
while it is loaded, and would print lines of its own on stderr. A script that loads it before us, or that sets
GRPC_VERBOSITY, has it as it wants, and no child process inherits what we set.
"""

from __future__ import annotations

import os
import sys

_VERBOSITY = "GRPC_VERBOSITY"
_is_ours = "grpc" not in sys.modules and _VERBOSITY not in os.environ
if _is_ours:
    os.environ[_VERBOSITY] = "NONE"

import grpc  # noqa: E402
import grpc.aio  # noqa: E402

if _is_ours:
    del os.environ[_VERBOSITY]

__all__ = ["grpc"]
