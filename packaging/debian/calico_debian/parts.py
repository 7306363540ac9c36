"""Which package has which files. What no package names of the runtime is in `calico-common`."""

from __future__ import annotations

from typing import NamedTuple

COMMON = "calico-common"
PREFIX = "usr/lib/calico"
"""Where the runtime stands on a host, from the root."""
SITE = "lib/python3.11/site-packages"
LEFT_OUT = ("kazoo", "kazoo-*.dist-info", "calico_dcos", "calico_dcos-*.dist-info")
"""Of site-packages: what only DC/OS has a use for."""


class Part(NamedTuple):
    """A package. `links` are made: (path from the root, what it leads to)."""

    modules: tuple[str, ...] = ()
    """Patterns of names in site-packages."""
    folders: tuple[str, ...] = ()
    """Folders of the runtime."""
    links: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    """(path in the repository, folder from the root)."""
    units: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    """Those of the units that a new version restarts."""


def program(name: str, *shown_in: str) -> tuple[tuple[str, str], ...]:
    """The links that are a program: the name decides what runs (packaging/README.md)."""
    here = (f"{PREFIX}/bin/{name}", "python3")
    return (here, *((f"{folder}/{name}", "../lib/calico/bin/python3") for folder in shown_in))


def unit(name: str) -> tuple[str, str]:
    """A unit's file."""
    return f"packaging/systemd/{name}.service", "usr/lib/systemd/system"


DOCUMENTS = tuple(
    (f"docs/{name}.md", "usr/share/doc/calico-common")
    for name in ("howto/install-systemd", "howto/debug", "howto/policy", "reference/settings", "reference/etcd")
)

PARTS = {
    COMMON: Part(files=DOCUMENTS),
    "calico-felix": Part(
        modules=("calico_felix", "calico_felix-*.dist-info"),
        links=(*program("calico-felix", "usr/sbin"), *program("calico-node", "usr/sbin")),
        files=(unit("calico-felix"),),
        units=("calico-felix.service",),
        restarted=("calico-felix.service",),
    ),
    "calico-bird": Part(
        modules=(
            "calico_bird", "calico_bird-*.dist-info",
            "jinja2", "jinja2-*.dist-info", "markupsafe", "markupsafe-*.dist-info",
        ),
        links=program("dcos-calico-confd"),
        files=(unit("calico-confd"), unit("calico-bird")),
        units=("calico-bird.service", "calico-confd.service"),
        restarted=("calico-confd.service",),
    ),
    "calico-cni": Part(
        modules=("calico_cni", "calico_cni-*.dist-info"),
        folders=("cni",),
        links=(
            (f"{PREFIX}/cni/calico-cni-fallback", "../bin/python3"),
            ("usr/lib/cni/calico", "../calico/cni/calico"),
            ("usr/lib/cni/calico-ipam", "../calico/cni/calico-ipam"),
        ),
    ),
    "calico-libnetwork": Part(
        modules=("calico_libnetwork", "calico_libnetwork-*.dist-info"),
        links=program("calico-libnetwork-plugin"),
        files=(unit("calico-libnetwork"),),
        units=("calico-libnetwork.service",),
        restarted=("calico-libnetwork.service",),
    ),
    "calicoctl": Part(
        modules=(
            "calicoctl", "calicoctl-*.dist-info", "docopt", "docopt_ng-*.dist-info",
            "jsonpatch*", "jsonpointer*", "__pycache__/jsonpatch*", "__pycache__/jsonpointer*",
        ),
        links=program("calicoctl", "usr/bin"),
    ),
    "calico": Part(),
}  # fmt: skip
"""By name. `calico` has nothing but its dependencies."""
