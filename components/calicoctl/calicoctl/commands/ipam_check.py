"""ipam check: every step with its numbers, what contradicts itself, and a report (spec/calicoctl.md 6.3)."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from calicoctl import cluster, ipam_report, session, stdio
from calicoctl.failures import CommandFailed, failed_by
from libcalico.errors import CalicoError
from libcalico.ipam.audit import Allocation, Audit

NODES_SHOWN = 20


def run(arguments: dict[str, Any]) -> int:
    """Problems are no failure: the status is 0 as long as all could be looked at."""
    shows_all = bool(arguments["--show-all-ips"])
    with cluster.connect(arguments) as client:
        try:
            audit = client.ipam.check()
        except CalicoError as error:
            raise failed_by(error, str(error)) from None
    for line in lines(audit, shows_all, shows_all or bool(arguments["--show-problem-ips"])):
        print(line)
    for key in audit.unreadable:
        print(f"warning: {key} cannot be read: what it uses counts as leaked", file=sys.stderr)
    if arguments["--output"]:
        _write(arguments["--output"], ipam_report.encode(audit, session.CLIENT_VERSION))
    return 0


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        what = "write" if error.filename is None else "open"
        raise CommandFailed(f"{what} {file}: {stdio.reason(error)}") from None


def lines(audit: Audit, shows_all: bool, shows_problems: bool) -> Iterator[str]:
    """The whole output."""
    yield from ("Checking IPAM for inconsistencies...", "")
    yield from _blocks(audit, shows_all)
    yield from ("Loading all IPAM pools...", *(f"  {pool.network}" for pool in audit.pools))
    yield from (f"Found {len(audit.pools)} active IP pools.", "")
    yield from ("Loading all nodes.", *_belongs(audit.tunnels, shows_all))
    yield from (f"Found {len(audit.tunnels)} node tunnel IPs.", "")
    yield from ("Loading all workload endpoints.", *_belongs(audit.workloads, shows_all))
    yield f"Found {len(audit.workloads)} workload IPs."
    yield from (f"Workloads and nodes are using {len(audit.used)} IPs.", "")
    yield from _nodes(audit)
    problems = yield from _addresses(audit, shows_problems)
    problems += yield from _handles(audit, shows_problems)
    invalid = [block for block in audit.blocks if block.problem]
    yield "Validating IPAMBlock structures..."
    if shows_problems:
        yield from (f"  {block.cidr}: {block.problem}" for block in invalid)
    yield f"Found {len(invalid)} invalid IPAMBlocks."
    yield f"Check complete; found {problems + len(invalid)} problems."


def _blocks(audit: Audit, shows_all: bool) -> Iterator[str]:
    yield from ("Loading all IPAM blocks...", f"Found {len(audit.blocks)} IPAM blocks.")
    for block in audit.blocks:
        yield f" IPAM block {block.cidr} affinity={block.affinity or '<none>'}:"
        if shows_all:
            yield from (f"  {one.address} allocated; attrs {attributes(one)}" for one in block.allocations)
    yield from (f"IPAM blocks record {sum(1 for _ in audit.allocations)} allocations.", "")


def attributes(allocation: Allocation) -> str:
    """What is stored about an allocation, in one line."""
    pairs = ",".join(f"{name}={value}" for name, value in allocation.attribute.secondary)
    return f"Main:{allocation.handle or '<none>'} Extra:{pairs}"


def _belongs(uses: tuple[Any, ...], shows_all: bool) -> Iterator[str]:
    if shows_all:
        yield from (f"  {use.address} belongs to {use.owner}" for use in uses)


def _nodes(audit: Audit) -> Iterator[str]:
    yield from ("Loading all handles", f"Looking for top (up to {NODES_SHOWN}) nodes by allocations...")
    nodes = audit.nodes
    yield from (f"  {node or '<none>'} has {count} allocations" for node, count in nodes[:NODES_SHOWN])
    if nodes:
        yield f"Node with most allocations has {nodes[0][1]}; median is {nodes[len(nodes) // 2][1]}"
    yield ""


def _addresses(audit: Audit, shows_problems: bool) -> Generator[str, None, int]:
    """Lines about addresses; how many are a problem."""
    leaked, used = audit.leaked, audit.used
    outside, inside = audit.unallocated()
    yield "Scanning for IPs that are allocated but not actually in use..."
    if shows_problems:
        yield from (f"  {one.address} leaked; attrs {attributes(one)}" for one in leaked)
    yield f"Found {len(leaked)} IPs that are allocated in IPAM but not actually in use."
    yield "Scanning for IPs that are in use by a workload or node but not allocated in IPAM..."
    if shows_problems:
        yield from (f"  {address} has multiple owners." for address, owners in used.items() if len(owners) > 1)
        for address in outside:
            yield from (f"  {address} in use by {owner} is not in any active IP pool." for owner in used[address])
        for address in inside:
            text = "and in active IPAM pool but has no IPAM allocation."
            yield from (f"  {address} in use by {owner} {text}" for owner in used[address])
    yield f"Found {len(outside)} in-use IPs that are not in active IP pools."
    yield f"Found {len(inside)} in-use IPs that are in active IP pools but have no corresponding IPAM allocation."
    yield ""
    return len(leaked) + len(outside) + len(inside)


def _handles(audit: Audit, shows_problems: bool) -> Generator[str, None, int]:
    """Lines about handles; how many lead nowhere. Missing ones are shown and are no problem: they are only an index."""
    named = audit.named_handles
    stale = [handle for handle in audit.handles if handle not in named]
    missing = sorted(named - set(audit.handles))
    yield "Scanning for IPAM handles with no matching IPs..."
    if shows_problems:
        yield from (f"  {handle} doesn't have any active IPs." for handle in stale)
    matched = len(audit.handles) - len(stale)
    yield f"Found {len(stale)} handles with no matching IPs (and {matched} handles with matches)."
    yield "Scanning for IPs with missing handle..."
    if shows_problems:
        yield from (f"  {handle} is in use in a block but doesn't exist." for handle in missing)
    yield f"Found {len(missing)} handles mentioned in blocks with no matching handle resource."
    return len(stale)
