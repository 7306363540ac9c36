"""ipam show: how the pools are used, and who holds an address (spec/calicoctl.md 6.1, spec/ipam.md 14)."""

from __future__ import annotations

import ipaddress
from typing import Any

from calicoctl import cluster
from calicoctl.commands.get import unreadable_notes
from calicoctl.failures import CommandFailed, notes_are_shown, show_notes
from calicoctl.session import Session
from libcalico import boxes
from libcalico.errors import CalicoError, ResourceDoesNotExist
from libcalico.model.ipam_data import Attribute, Block

USAGE_HEADER = ("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE")
BORROWED_HEADER = ("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO")


def show(arguments: dict[str, Any]) -> int:
    """One of the four views."""
    with cluster.connect(arguments) as client:
        try:
            if arguments["--ip"] is not None:
                print(_address(client, arguments["--ip"]), end="")
            elif arguments["--show-borrowed"]:
                print(_borrowed(client), end="")
                _name_unreadable(client)
            elif arguments["--show-configuration"]:
                print(_configuration(client), end="")
            else:
                print(usage(client, arguments["--show-blocks"]), end="")
                _name_unreadable(client)
        except CommandFailed:
            raise
        except CalicoError as error:
            raise CommandFailed(str(error)) from None
    return 0


def _name_unreadable(client: Session) -> None:
    if notes_are_shown():
        show_notes(unreadable_notes("block", client.ipam.unreadable_blocks()))


def usage(client: Session, with_blocks: bool) -> str:
    """The pools, and with `with_blocks` the blocks of each, in a table."""
    rows = []
    for usage in client.ipam.get_utilization():
        used = sum(_used(block) for block in usage.blocks)
        if usage.pool is not None:
            rows.append(_row("IP Pool", str(usage.pool.network), usage.pool.network.num_addresses, used))
        if with_blocks:
            rows += [_row("Block", block.cidr, len(block.allocations), _used(block)) for block in usage.blocks]
    return boxes.render(USAGE_HEADER, rows)


def _used(block: Block) -> int:
    return len(block.allocations) - len(block.unallocated)


def _row(grouping: str, cidr: str, total: int, used: int) -> tuple[str, ...]:
    return (grouping, cidr, _number(total), _share(used, total), _share(total - used, total))


def _number(value: int) -> str:
    return f"{float(value):.5g}" if value >= 100000 else str(value)


def _share(part: int, total: int) -> str:
    return f"{_number(part)} ({100 * part / total:.0f}%)"


def parsed_address(text: str) -> str:
    """An address as the user gives it, in its shortest form, an IPv4 one in IPv6's clothes as IPv4; one with a length
    or a zone is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text:
        raise CommandFailed(f"Error executing command: invalid IP address specified: {text}", to_stdout=True)
    return str(getattr(address, "ipv4_mapped", None) or address)


def _address(client: Session, text: str) -> str:
    address = parsed_address(text)
    try:
        found: Attribute = client.ipam.get_assignment_attributes(address)
    except ResourceDoesNotExist:
        return f"{address} is not assigned\n"
    lines = [f"IP {address} is in use", f"Handle ID: {found.handle or '<none>'}"]
    if found.secondary:
        lines += ["Active Owner Attributes:", *(f"  {key}: {value}" for key, value in found.secondary)]
    else:
        lines.append("No Active Owner attributes defined")
    if found.alternate:
        lines += ["Alternate Owner Attributes:", *(f"  {key}: {value}" for key, value in found.alternate)]
    return "\n".join(lines) + "\n"


def _borrowed(client: Session) -> str:
    rows, unknown = [], 0
    for usage in client.ipam.get_utilization():
        for block in usage.blocks:
            owner = (block.affinity or "").partition(":")[2]
            for ordinal in range(len(block.allocations)):
                attribute = block.attribute(ordinal)
                if attribute is None:
                    continue
                facts = dict(attribute.secondary)
                if not facts.get("node"):
                    unknown += 1
                elif facts["node"] != owner:
                    rows.append(_borrowed_row(block, ordinal, owner, facts))
    text = boxes.render(BORROWED_HEADER, rows)
    if unknown:
        text += (
            f"\nNote: found {unknown} IP allocations without an explicit node association."
            " Unable to determine if they are borrowed.\n"
        )
    return text


def _borrowed_row(block: Block, ordinal: int, owner: str, facts: dict[str, str]) -> tuple[str, ...]:
    pod = f"{facts.get('namespace', '')}/{facts['pod']}" if facts.get("pod") else ""
    kind = "pod" if pod else facts.get("type", "")
    return (block.address(ordinal), facts["node"], block.cidr, owner, kind, pod)


def _configuration(client: Session) -> str:
    config = client.ipam.get_config()
    rows = [
        ("StrictAffinity", str(config.strict_affinity).lower()),
        ("AutoAllocateBlocks", str(config.auto_allocate_blocks).lower()),
        ("MaxBlocksPerHost", str(config.max_blocks_per_host)),
        ("KubeVirtVMAddressPersistence", config.persistence or ""),
    ]
    return boxes.render(("PROPERTY", "VALUE"), rows)
