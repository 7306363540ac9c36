"""Compile the protos of this package: `python -m libcalico.rpc.generate`. The results are kept in the tree."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent.parent
PROTOS = ("node.proto", "etcd/etcd.proto")


def main() -> int:
    """Write `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` beside each proto."""
    import grpc_tools
    from grpc_tools import protoc

    for proto in PROTOS:
        arguments = ["protoc", f"-I{ROOT}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
        arguments += [f"--{kind}={ROOT}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        if protoc.main([*arguments, f"libcalico/rpc/{proto}"]) != 0:
            return 1
    stubs = PACKAGE / "etcd" / "etcd_pb2_grpc.py"
    stubs.write_text(stubs.read_text().replace("calico.etcdserverpb.", "etcdserverpb."))  # the services' names in etcd
    return 0


if __name__ == "__main__":
    sys.exit(main())
