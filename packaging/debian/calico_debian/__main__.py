"""`python -m calico_debian --out FOLDER [--version VERSION] [--runtime TREE]` builds a deb of every part."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from calico_debian import debs
from calico_runtime.commands import BuildError, say


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="calico_debian", description="Builds the Debian packages")
    parser.add_argument("--out", required=True, type=Path, help="folder for the packages")
    parser.add_argument("--version", default=debs.own_version(), help="version of the packages (default: %(default)s)")
    parser.add_argument(
        "--runtime", type=Path, help="a tree that calico_runtime --host-libc has made for /usr/lib/calico"
    )
    arguments = parser.parse_args()
    try:
        for package in debs.build(arguments.out.absolute(), arguments.version, arguments.runtime):
            say(f"packaging: {package}")
    except BuildError as error:
        say(f"packaging: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
