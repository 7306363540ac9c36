"""node checksystem: has this kernel what our services need of it (spec/calicoctl.md 7.3)?

A feature counts as there when its module is loaded, built in or on disk, or when the kernel's configuration has it.
"""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from calicoctl.commands.node_status import need_root
from calicoctl.failures import CommandFailed

RELEASE = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})")
OLDEST = (5, 6)
"""Sets of ranges joined with ports, which policies are made of, came with Linux 5.6."""
GOOD = "System meets minimum system requirements to run Calico!"
BAD = "system doesn't meet one or more minimum systems requirements to run Calico"


class Feature(NamedTuple):
    """A module of the kernel, its option in the kernel's configuration, and whose it is."""

    module: str
    option: str
    needed_by: str = ""


FEATURES = (
    Feature("nf_tables", "CONFIG_NF_TABLES"),
    Feature("nft_ct", "CONFIG_NFT_CT"),
    Feature("nft_nat", "CONFIG_NFT_NAT"),
    Feature("nft_masq", "CONFIG_NFT_MASQ"),
    Feature("nft_fib", "CONFIG_NFT_FIB"),
    Feature("nf_conntrack", "CONFIG_NF_CONNTRACK"),
    Feature("veth", "CONFIG_VETH"),
)
TUNNELS = (
    Feature("vxlan", "CONFIG_VXLAN", "pools with vxlanMode"),
    Feature("ipip", "CONFIG_NET_IPIP", "pools with ipipMode"),
)
"""Needed only by pools that use them."""


def run(arguments: dict[str, Any]) -> int:
    """Print each feature. Raises `CommandFailed` when one is missing that every host needs."""
    need_root()
    release = os.uname().release
    known = _known(release, arguments["--kernel-config"])
    print("Checking kernel version...")
    is_well = _is_new_enough(release)
    _row(release, is_well)
    print("Checking kernel modules...")
    for feature in FEATURES:
        is_well &= _check(feature, known)
    for feature in TUNNELS:
        _check(feature, known)
    if not is_well:
        raise CommandFailed(BAD)
    print(GOOD)
    return 0


def _row(name: str, is_there: bool) -> None:
    print(f"\t\t{name:<20}\t\t\t\t\t{'OK' if is_there else 'FAIL'}")


def _check(feature: Feature, known: frozenset[str]) -> bool:
    is_there = feature.module in known or feature.option in known
    _row(feature.module, is_there)
    if not is_there:
        name = feature.module
        only = f" (only {feature.needed_by} need it)" if feature.needed_by else ""
        print(f"WARNING: Unable to detect the {name} module as Loaded/Builtin module or lsmod{only}")
    return is_there


def _is_new_enough(release: str) -> bool:
    found = RELEASE.match(release)
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST


def _known(release: str, config: str | None) -> frozenset[str]:
    """Names of modules and options that this kernel has."""
    names = {line.split()[0] for line in _text("/proc/modules").splitlines() if line.split()}
    for file in ("modules.dep", "modules.builtin"):
        for line in _text(f"/lib/modules/{release}/{file}").splitlines():
            names.add(os.path.basename(line.partition(":")[0]).partition(".ko")[0].replace("-", "_"))
    places = [config] if config else ["/proc/config.gz", f"/boot/config-{release}"]
    text = next(filter(None, map(_text, places)), "")
    if config and not text:
        raise CommandFailed(
            f"cannot read the kernel's configuration {config}: give the file that your kernel was built with"
        )
    for line in text.splitlines():
        option, _, value = line.partition("=")
        if value in ("y", "m"):
            names.add(option)
    return frozenset(names)


def _text(path: str) -> str:
    """A file's text, unpacked if it is compressed; empty when it cannot be read."""
    try:
        content = Path(path).read_bytes()
        return (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8", "replace")
    except (OSError, EOFError, ValueError):
        return ""
