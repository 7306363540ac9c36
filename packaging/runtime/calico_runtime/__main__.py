"""`python3.11 -m calico_runtime --out TREE --prefix WHERE [--host-libc] [--fresh]` builds a runtime (tree.py)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from calico_runtime import tree
from calico_runtime.commands import BuildError, say


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="calico_runtime", description="Builds the Python runtime of a package")
    parser.add_argument("--out", required=True, type=Path, help="folder to make")
    parser.add_argument("--prefix", required=True, help="where that folder will stand on the host, an absolute path")
    parser.add_argument(
        "--host-libc", action="store_true", help="use the host's shared libraries (a package of Debian 12's)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="build our wheels again, even if their sources did not change"
    )
    arguments = parser.parse_args()
    try:
        tree.build(tree.Plan(arguments.out.absolute(), arguments.prefix, not arguments.host_libc, not arguments.fresh))
    except BuildError as error:
        say(f"packaging: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
