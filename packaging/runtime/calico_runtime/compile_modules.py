"""`compile_modules.py LIBRARY SHOWN_AS`: compiles every module below a folder (stdlib.compile_all)."""

import compileall
import py_compile
import sys
from pathlib import Path


def main() -> int:
    """Returns 1 after naming a module that does not compile."""
    library, shown_as = Path(sys.argv[1]), sys.argv[2]
    for path in sorted(library.rglob("*.py")):
        folder = str(Path(shown_as, path.relative_to(library)).parent)
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        if not compileall.compile_file(path, ddir=folder, force=True, quiet=1, invalidation_mode=unchecked):
            print(f"{path} does not compile", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
