"""Wheels: ours, built from this tree and kept by what they were built from; those of others, pinned by hash."""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from calico_runtime.commands import PYTHON, BuildError, index_environment, run, say

ROOT = Path(__file__).resolve().parents[3]
RUNTIME = ROOT / "packaging/runtime"
WORK = ROOT / "build/packaging"
DISTS = (
    "native", "libcalico", "components/felix", "components/cni", "components/calicoctl", "components/bird-config",
    "components/libnetwork", "packaging/dcos",
)  # fmt: skip
"""Our distributions, in the order in which they build on each other."""
COMPILED = ("native", "components/cni")


@contextmanager
def alone() -> Iterator[None]:
    """What is kept below `build/packaging` is used by one build at a time."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sources(folder: str) -> list[Path]:
    """Files of a folder of this tree that are kept in git, or are new and not ignored; sorted."""
    listed = run(["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z", folder], str(ROOT))
    return [path for name in sorted(filter(None, listed.split("\0"))) if (path := ROOT / name).is_file()]


def digest_of(paths: Sequence[Path], *more: str) -> str:
    """SHA-1 over names (below the root), modes and contents of files, and over other facts."""
    total = hashlib.sha1()
    for path in paths:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(ROOT)} {path.stat().st_mode & 0o100:o} {content}\n".encode())
    for fact in more:
        total.update(f"{fact}\n".encode())
    return total.hexdigest()


def inputs_of(dist: str) -> list[Path]:
    """What a distribution's wheel is made from: its sources without tests."""
    return [path for path in sources(dist) if "tests" not in path.relative_to(ROOT / dist).parts[:1]]


def tools() -> Path:
    """`bin` of the build's own virtual environment, made on first use and again when its list changes."""
    wanted = RUNTIME / "build-requirements.txt"
    folder = WORK / f"tools-{digest_of([wanted], PYTHON)[:12]}"
    if not (folder / "ready").exists():
        say("packaging: installing the build's tools")
        shutil.rmtree(folder, ignore_errors=True)
        run([PYTHON, "-m", "venv", str(folder)])
        run([str(folder / "bin/pip"), "install", "-q", "-r", str(wanted)], environment=index_environment())
        (folder / "ready").touch()
    return folder / "bin"


def own_wheel(dist: str, kept: bool = True) -> Path:
    """The wheel of one of our distributions; with `kept`, one that was built from the same sources serves again."""
    paths, bin_folder = inputs_of(dist), tools()
    build_list = RUNTIME / "build-requirements.txt"
    compiler = run(["gcc", "--version"]).splitlines()[0] if dist in COMPILED else ""
    store = WORK / "wheels" / f"{dist.replace('/', '-')}-{digest_of([*paths, build_list], compiler)[:16]}"
    if not kept:
        shutil.rmtree(store, ignore_errors=True)
    if not list(store.glob("*.whl")):
        say(f"packaging: building the wheel of {dist}")
        copy = WORK / "sources" / dist
        shutil.rmtree(copy, ignore_errors=True)
        for path in paths:
            to = copy / path.relative_to(ROOT / dist)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)
        environment = index_environment()
        environment["PATH"] = f"{bin_folder}:{environment['PATH']}"
        pip = [str(bin_folder / "python"), "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
        run([*pip, "-w", str(store), str(copy)], environment=environment)
    return next(store.glob("*.whl"))


def pinned_wheels() -> list[Path]:
    """The wheels of packaging/runtime/requirements.txt, checked against their hashes."""
    wanted = RUNTIME / "requirements.txt"
    store = WORK / "wheels" / f"pinned-{digest_of([wanted])[:16]}"
    if not (store / "ready").exists():
        say("packaging: fetching pinned wheels")
        shutil.rmtree(store, ignore_errors=True)
        pip = [str(tools() / "python"), "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
        run([*pip, "--only-binary", ":all:", "-d", str(store), "-r", str(wanted)], environment=index_environment())
        (store / "ready").touch()
    return sorted(store.glob("*.whl"))


def unpack(wheel: Path, site_packages: Path, scripts: Path) -> dict[str, str]:
    """Lay a wheel down as an installer would; programs of its `scripts` go to that folder, other data is an error.
    Returns its console scripts: {name: "module:function"}. What installers record (RECORD) is left out."""
    entries: dict[str, str] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            top, _, below = name.partition("/")
            if name.endswith(("/", ".dist-info/RECORD")):
                continue
            to, mode = site_packages / name, 0o644
            if top.endswith(".data"):
                kind, _, rest = below.partition("/")
                if kind != "scripts":
                    raise BuildError(f"{wheel.name} has {name}: files of kind {kind} are not known here")
                to, mode = scripts / rest, 0o755
            elif below == "entry_points.txt" and top.endswith(".dist-info"):
                parsed = configparser.ConfigParser()
                parsed.read_string(archive.read(name).decode())
                entries |= dict(parsed["console_scripts"]) if "console_scripts" in parsed else {}
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(archive.read(name))
            to.chmod(mode)
    return entries
