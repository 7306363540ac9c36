"""The runtime's tree:

bin/python3                    the launcher, an interpreter that no environment leads astray (launcher.c)
lib/*.so*                      shared libraries; with `with_libc` also the loader and the C library
lib/python3.11/                standard library, lib-dynload, site-packages
cni/calico, cni/calico-ipam    the CNI plug-in's C programs
programs.txt                   names that a symbolic link to bin/python3 may have, with what each calls
debian.txt                     Debian packages whose files are in it, with versions
host-libraries.txt             libraries that the host has to have (without `with_libc`)
licences/                      their licences
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from calico_runtime import elf, stdlib, wheels
from calico_runtime.commands import BuildError, run, say

LIBRARY = "lib/python3.11"
STATIC_PYTHON = Path("/usr/lib/python3.11/config-3.11-x86_64-linux-gnu/libpython3.11.a")
LOADED_BY_NAME = ("libnftables.so.1",)
"""What our code loads at run time (libcalico.kernel.nft)."""
SITE_DEBRIS = ("direct_url.json", "INSTALLER", "REQUESTED")


class Plan(NamedTuple):
    """What to build: where, for which place on the host, with the C library or on the host's."""

    out: Path
    prefix: str
    with_libc: bool = True
    kept: bool = True


def build(plan: Plan) -> None:
    """Make the tree at `plan.out`, which must not be there."""
    if plan.out.exists():
        raise BuildError(f"{plan.out} is already there: remove it, or name another place")
    library = plan.out / LIBRARY
    copied = stdlib.lay_down(library)
    entries = _lay_down_wheels(plan, library)
    (plan.out / "programs.txt").write_text("".join(f"{name} {entry}\n" for name, entry in sorted(entries.items())))
    launcher = _launcher(plan, entries)
    compiled = [launcher, *sorted(library.rglob("*.so"))]
    libraries = elf.closure(compiled, LOADED_BY_NAME)
    if plan.with_libc:
        copied += add_libraries(plan.out, libraries.values())
    else:
        (plan.out / "host-libraries.txt").write_text("".join(f"{name}\n" for name in libraries))
    say("packaging: compiling modules")
    stdlib.compile_all(library, f"{plan.prefix}/{LIBRARY}")
    describe(plan.out, [*copied, STATIC_PYTHON])


def add_libraries(out: Path, libraries: Iterable[Path]) -> list[Path]:
    """Copy shared libraries into `lib/` under the names that the loader asks for."""
    for path in libraries:
        elf.copy(path, out / "lib" / path.name, 0o755 if path.name == elf.LOADER else 0o644)
    return list(libraries)


def describe(out: Path, copied: Iterable[Path], name: str = "debian.txt") -> None:
    """Say which Debian packages were copied from, and add their licences."""
    packages = elf.debian_packages(copied)
    (out / name).write_text("".join(f"{package} {version}\n" for package, version in packages.items()))
    for package in packages:
        licence = Path("/usr/share/doc", package, "copyright")
        if licence.exists():
            elf.copy(licence, out / "licences" / package)


def _lay_down_wheels(plan: Plan, library: Path) -> dict[str, str]:
    site_packages, entries = library / "site-packages", dict[str, str]()
    with wheels.alone():
        for wheel in wheels.pinned_wheels():
            wheels.unpack(wheel, site_packages, plan.out / "scripts-of-others")
        for dist in wheels.DISTS:
            entries |= wheels.unpack(wheels.own_wheel(dist, plan.kept), site_packages, plan.out / "cni")
    shutil.rmtree(plan.out / "scripts-of-others", ignore_errors=True)
    for name in SITE_DEBRIS:
        for path in site_packages.glob(f"*.dist-info/{name}"):
            path.unlink()
    for path in (*sorted(site_packages.rglob("calico_native/*.so")), *sorted((plan.out / "cni").iterdir())):
        elf.strip(path)
    return entries


def _launcher(plan: Plan, entries: dict[str, str]) -> Path:
    """Compile the launcher with the table of programs."""
    program, table = plan.out / "bin/python3", plan.out / "programs.h"
    table.write_text("".join(f'{{"{name}", "{entry}"}},\n' for name, entry in sorted(entries.items())))
    program.parent.mkdir(parents=True, exist_ok=True)
    flags = [
        "-std=c11",
        "-D_GNU_SOURCE",
        "-O2",
        "-g0",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fstack-protector-strong",
        "-no-pie",
    ]
    include = ["-isystem", "/usr/include/python3.11", f'-DPROGRAMS_H="{table}"']
    source = str(Path(__file__).with_name("launcher.c"))
    link = ["-Wl,--export-dynamic", "-Wl,-z,relro,-z,now", str(STATIC_PYTHON), "-lexpat", "-lz", "-lm"]
    if plan.with_libc:
        loader = f"{plan.prefix}/lib/{elf.LOADER}"
        link += [f"-Wl,--dynamic-linker={loader}", "-Wl,-rpath,$ORIGIN/../lib", "-Wl,--disable-new-dtags"]
    run(["gcc", *flags, *include, source, "-o", str(program), *link])
    table.unlink()
    elf.strip(program)
    return program
