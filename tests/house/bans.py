"""What stands nowhere in our programs, each for a lesson that was paid for (docs/design/house.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

PURE = (
    "libcalico/libcalico/model/", "libcalico/libcalico/selector/", "libcalico/libcalico/manifest/",
    "libcalico/libcalico/policy/", "libcalico/libcalico/calc/", "libcalico/libcalico/ipam/plan.py",
    "libcalico/libcalico/workload/plan.py", "native/calico_native/py/",
    "components/bird-config/calico_bird/routing.py", "components/bird-config/calico_bird/grammar.py",
    "components/bird-config/calico_bird/filters.py", "components/bird-config/calico_bird/peers.py",
    "components/bird-config/calico_bird/render.py", "libcalico/libcalico/bird/names.py",
    "libcalico/libcalico/bird/replies.py",
)  # fmt: skip
BUILD = "packaging/runtime/"
KERNEL, TESTING, CLOCK = "libcalico/libcalico/kernel/", "libcalico/libcalico/testing/", "libcalico/libcalico/clock.py"
NOW = {
    "time.time", "time.monotonic", "time.time_ns", "time.monotonic_ns", "time.perf_counter",
    "datetime.now", "datetime.utcnow", "date.today",
}  # fmt: skip
WORLD = {"os.environ", "os.getenv"}
PROCESSES = {
    "os.system", "os.popen", "os.fork", "os.posix_spawn", "os.posix_spawnp",
    "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell",
}  # fmt: skip
CLOCK_ALLOWED = {
    "components/felix/calico_felix/dataplane/foreign_watch.py": "a thread that waits for processes of its own",
}


def banned(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and reason of everything banned in one file; `name` is its path from the root."""
    if name.startswith((TESTING, BUILD)) or "tests/" in name:
        return
    for node in ast.walk(tree):
        for reason in (*_of_time(name, node), *_of_tasks(node), *_of_kernel(name, node)):
            yield getattr(node, "lineno", 0), reason


def _dotted(node: ast.AST) -> str:
    """`a.b` of an attribute of a name, else nothing."""
    is_plain = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return f"{node.value.id}.{node.attr}" if is_plain else ""  # type: ignore[attr-defined]


def _of_time(name: str, node: ast.AST) -> Iterator[str]:
    dotted, is_pure = _dotted(node), name.startswith(PURE)
    if dotted in NOW and name != CLOCK and name not in CLOCK_ALLOWED:
        yield f"{dotted}: pure code gets `now`, other code a Clock"
    if dotted in WORLD and is_pure:
        yield f"{dotted}: pure code reads no environment"
    if isinstance(node, ast.ImportFrom) and node.module == "time" and name != CLOCK:
        yield "from time import: write time.name, which a search finds"


def _of_tasks(node: ast.AST) -> Iterator[str]:
    """A task whose failure nobody sees: TaskGroup.create_task, or a future that is kept and awaited."""
    if isinstance(node, ast.Call) and _dotted(node.func) == "asyncio.create_task":
        yield "asyncio.create_task: a TaskGroup's, so that a task that fails ends its daemon"
    dropped = node.value if isinstance(node, ast.Expr) else None
    if isinstance(dropped, ast.Call) and _dotted(dropped.func) == "asyncio.ensure_future":
        yield "asyncio.ensure_future: nobody holds what it returns"


def _of_kernel(name: str, node: ast.AST) -> Iterator[str]:
    if name.startswith(KERNEL):
        return
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    if "subprocess" in modules or _dotted(node) in PROCESSES:
        yield "only the kernel room starts processes (libcalico.kernel.process)"
    if _dotted(node).partition(".")[2] == "AF_NETLINK":
        yield "only the kernel room speaks netlink"
