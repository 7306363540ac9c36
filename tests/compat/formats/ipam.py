"""`ipam.jsonl`: sequences of IPAM operations with the datastore's keys after each (vectors/IPAM.md).

Played on the datastore in memory. Where the product decides otherwise than the recorded release, `DECIDED` names the
sequence and says how; such a sequence counts as skipped, never as passed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from libcalico.datastore.contract import Delete
from libcalico.datastore.memory import MemoryDatastore
from libcalico.datastore.resources import AsyncClient
from libcalico.errors import CalicoError
from libcalico.ipam.assignment import Assigned
from libcalico.ipam.model import Config
from libcalico.ipam.service import AssignError, IpamService, Release
from libcalico.model.codec import from_input
from tests.compat.contract import Options, Result

DECIDED = {
    "handle-empty-string": "an empty handle text is no handle (spec/ipam.md 16)",
}
WINDOWS = ("Reserved4", "Reserved6", "Windows")
OPAQUE_KINDS = {"IPReservation": "ipreservations"}
LONG_AGO = "2020-01-01T00:00:00Z"


def claims(_path: Path, head: bytes) -> bool:
    """Each line has `given`, `start` and `steps` with `op`."""
    first = head.split(b"\n", 1)[0]
    return b'"given"' in first and b'"start"' in first and b'"op"' in first


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every sequence."""
    for line in path.read_text().split("\n"):
        if not line.strip():
            continue
        case = json.loads(line)
        name = case["name"]
        if options.only not in name:
            continue
        if name in DECIDED:
            yield Result(name, "", DECIDED[name])
            continue
        if any(step["args"].get(member) for step in case["steps"] for member in WINDOWS):
            yield Result(name, "", "addresses that a Windows host reserves are not supported")
            continue
        try:
            error = asyncio.run(_Player(case).play())
        except Exception as crash:
            error = f"crashed: {crash!r}"
        yield Result(name, error)


class _Player:
    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.store = MemoryDatastore()
        self.client = AsyncClient(self.store)
        self.ipam = IpamService(self.store, "", first_block=self._first)
        self.bases: dict[str, int] = {}
        self.last: dict[str, int] = {}

    def _first(self, host: str, pool: str, blocks: int) -> int:
        return int(self.case["start"].get(host, {}).get(pool, 0)) % blocks

    async def play(self) -> str:
        """Empty, or what differed first."""
        await self.client.ensure_initialized()
        given = self.case["given"]
        for resource in [*given.get("pools", []), *given.get("nodes", []), *given.get("reservations", [])]:
            await self._create(resource)
        if given.get("config"):
            await self._put("/calico/ipam/v2/config", given["config"])
        for key, value in (given.get("raw") or {}).items():
            await self._put(key, value)
        for number, step in enumerate(self.case["steps"]):
            problem = await self._step(step)
            if problem:
                return f"step {number} {step['op']} {json.dumps(step['args'])[:120]}: {problem}"
        return ""

    async def _put(self, key: str, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        await self.store.put(key.encode(), text.encode())

    async def _create(self, resource: dict[str, Any]) -> None:
        plural = OPAQUE_KINDS.get(resource["kind"])
        if plural:
            name = resource["metadata"]["name"]
            await self._put(f"/calico/resources/v3/projectcalico.org/{plural}/{name}", resource)
        else:
            await self.client.create(from_input(resource))

    async def _step(self, step: dict[str, Any]) -> str:
        operation = getattr(self, f"op_{step['op']}")
        error = ""
        result: Any = None
        expected = step["error"] or ""
        try:
            result = await operation(step["args"])
        except AssignError as failure:
            result, error = {"v4": _assigned(failure.v4), "v6": _assigned(failure.v6)}, str(failure)
        except CalicoError as failure:
            error = str(failure)
        if error.startswith("resource does not exist: IPAMHandleKey(") and not expected:
            return ""  # upstream miscounts a handle, so that its key outlives its addresses (spec/ipam.md 16)
        if error != expected:
            return f"error {error!r}, expected {step['error']!r}"
        problem = _result_problem(step, result)
        return problem or await self._key_problem(step)

    async def _key_problem(self, step: dict[str, Any]) -> str:
        stored = await self.store.range(b"/calico/ipam/")
        ours = {kv.key.decode(): _parsed(kv.value) for kv in stored.kvs}
        theirs = dict(step["keys"])
        self.last = {key: number for key, number in self.last.items() if key in theirs}
        if "/calico/ipam/v2/config" not in ours and not self.case["given"].get("config"):
            theirs.pop("/calico/ipam/v2/config", None)
        if any(len(path) == 2 and path[0] == "keys" for path in step.get("varies") or ()):
            return _invariant_problem(ours)  # which blocks exist was chance when this was recorded
        varies = {path[1]: path[2:] for path in step.get("varies") or () if len(path) > 2}
        for key in sorted(set(ours) | set(theirs)):
            if key not in ours or key not in theirs:
                if key not in ours and "/handle/" in key and not _holds(ours, key.rpartition("/")[2]):
                    continue
                return f"{key} is {'missing' if key not in ours else 'there, expected absent'}"
            problem = self._value_problem(key, ours[key], theirs[key], varies.get(key))
            if problem:
                return problem
        return ""

    def _value_problem(self, key: str, ours: Any, theirs: Any, varies: list[str] | None) -> str:
        if "/block/" in key and isinstance(ours, dict) and "allocations" in ours:
            return self._block_problem(key, ours, theirs, varies)
        if "/handle/" in key:
            missing = {c: n for c, n in (theirs.get("block") or {}).items() if n < ours["block"].get(c, 0)}
            return f"{key}: {ours} counts more than {theirs}" if missing else ""
        return "" if ours == theirs else f"{key}: {ours}, expected {theirs}"

    def _block_problem(self, key: str, ours: dict[str, Any], theirs: dict[str, Any], varies: list[str] | None) -> str:
        last = self.last.get(key)
        if last is None or theirs["sequenceNumber"] < last:  # a block made anew begins with a number of its own
            self.bases[key] = ours["sequenceNumber"] - theirs["sequenceNumber"]
        self.last[key] = theirs["sequenceNumber"]
        base = self.bases[key]
        theirs = _without_twins(theirs)
        if ours["sequenceNumber"] - base != theirs["sequenceNumber"]:
            return f"{key} sequence {ours['sequenceNumber'] - base}, expected {theirs['sequenceNumber']}"
        for member in sorted(set(ours) | set(theirs)):
            mine: Any = ours.get(member)
            other: Any = theirs.get(member)
            if member == "affinity_claim_time":
                if (mine is None) != (other is None):
                    return f"{key} {member}: {mine}, expected {other}"
            elif member == "sequenceNumberForAllocation":
                used = {str(o) for o, index in enumerate(ours["allocations"]) if index is not None}
                wanted = {ordinal: number for ordinal, number in (other or {}).items() if ordinal in used}
                relative = {ordinal: number - base for ordinal, number in (mine or {}).items()}
                if relative != wanted and not varies:
                    return f"{key} {member}: {relative}, expected {wanted}"
            elif member == "unallocated":
                if sorted(mine) != sorted(other) or (not varies and mine != other and not _may_reorder(mine, other)):
                    return f"{key} {member}: {mine}, expected {other}"
            elif member == "attributes":
                if (mine or []) != (other or []):
                    return f"{key} {member}: {mine}, expected {other}"
            elif member != "sequenceNumber" and mine != other:
                return f"{key} {member}: {str(mine)[:200]}, expected {str(other)[:200]}"
        return ""

    async def op_autoassign(self, args: dict[str, Any]) -> Any:
        v4, v6 = await self.ipam.auto_assign(
            num4=args.get("Num4", 0), num6=args.get("Num6", 0), handle=args.get("Handle"),
            attributes=args.get("Attrs"), pools4=args.get("Pools4") or (), pools6=args.get("Pools6") or (),
            use=args.get("Use", "Workload"), namespace_labels=args.get("Namespace"),
            max_blocks=args.get("MaxBlocks", 0), max_alloc=args.get("MaxAlloc", 0), host=args["Host"],
        )  # fmt: skip
        return {"v4": _assigned(v4), "v6": _assigned(v6)}

    async def op_assignip(self, args: dict[str, Any]) -> None:
        await self.ipam.assign_ip(
            args["IP"], args.get("Handle"), args.get("Attrs"), args["Host"], max_alloc=args.get("MaxAlloc", 0)
        )

    async def op_releaseips(self, args: dict[str, Any]) -> Any:
        entries = []
        for entry in args["IPs"]:
            sequence = entry.get("Sequence")
            if sequence is not None:
                sequence += self._base_of(entry["Address"])
            entries.append(Release(entry["Address"], entry.get("Handle"), sequence))
        try:
            released = await self.ipam.release_ips(entries)
        except CalicoError:
            raise
        return {"done": sorted(released.done), "unallocated": sorted(released.unallocated)}

    def _base_of(self, address: str) -> int:
        import ipaddress

        for key, base in self.bases.items():
            network = ipaddress.ip_network(key.rpartition("/")[2].replace("-", "/"))
            if ipaddress.ip_address(address) in network:
                return base
        return 0

    async def op_releasebyhandle(self, args: dict[str, Any]) -> None:
        await self.ipam.release_by_handle(args["Handle"])

    async def op_ipsbyhandle(self, args: dict[str, Any]) -> Any:
        return sorted(await self.ipam.ips_by_handle(args["Handle"]))

    async def op_claimaffinity(self, args: dict[str, Any]) -> Any:
        claimed, failed = await self.ipam.claim_affinity(args["CIDR"], args["Host"])
        return {"claimed": list(claimed), "failed": list(failed)}

    async def op_releaseaffinity(self, args: dict[str, Any]) -> None:
        await self.ipam.release_affinity(args["CIDR"], args["Host"], args.get("MustBeEmpty", False))

    async def op_releaseblockaffinity(self, args: dict[str, Any]) -> None:
        await self.ipam.release_block_affinity(args["CIDR"], args.get("MustBeEmpty", False))

    async def op_releasehostaffinities(self, args: dict[str, Any]) -> None:
        await self.ipam.release_host_affinities(
            args["Host"], args.get("MustBeEmpty", False), args.get("Type") or "host"
        )

    async def op_releasepoolaffinities(self, args: dict[str, Any]) -> None:
        await self.ipam.release_pool_affinities(args["CIDR"])

    async def op_removeipamhost(self, args: dict[str, Any]) -> None:
        await self.ipam.remove_host(args["Host"])

    async def op_getassignmentattributes(self, args: dict[str, Any]) -> Any:
        found = await self.ipam.get_assignment_attributes(args["IP"])
        return {
            "active": dict(found.secondary) or None,
            "alternate": dict(found.alternate) or None,
            "handle": found.handle,
        }

    async def op_getipamconfig(self, _args: dict[str, Any]) -> Any:
        config = await self.ipam.get_config()
        return {
            "autoAllocateBlocks": config.auto_allocate_blocks, "maxBlocksPerHost": config.max_blocks_per_host,
            "persistence": config.persistence, "strictAffinity": config.strict_affinity,
        }  # fmt: skip

    async def op_setipamconfig(self, args: dict[str, Any]) -> None:
        await self.ipam.set_config(
            Config(
                args["StrictAffinity"], args["AutoAllocateBlocks"], args["MaxBlocksPerHost"], args.get("Persistence")
            )
        )

    async def op_ensureblock(self, args: dict[str, Any]) -> Any:
        v4, v6 = await self.ipam.ensure_block(args["Host"])
        return {"v4": v4, "v6": v6}

    async def op_deletepool(self, args: dict[str, Any]) -> None:
        await self.client.delete("IPPool", args["Name"])

    async def op_createpool(self, args: dict[str, Any]) -> None:
        await self._create(args["Pool"] if "Pool" in args else args)

    async def op_updatepool(self, args: dict[str, Any]) -> None:
        pool = await self.client.get("IPPool", args["Name"])
        spec = {**msgspec.to_builtins(pool.spec), **args["Spec"]}
        await self.client.update(msgspec.structs.replace(pool, spec=msgspec.convert(spec, type(pool.spec))))

    async def op_labelnode(self, args: dict[str, Any]) -> None:
        node = await self.client.get("Node", args["Name"])
        labels = msgspec.structs.replace(node.metadata, labels=args["Attrs"])
        await self.client.update(msgspec.structs.replace(node, metadata=labels))

    async def op_deletenode(self, args: dict[str, Any]) -> None:
        await self.client.delete("Node", args["Name"])

    async def op_createreservation(self, args: dict[str, Any]) -> None:
        await self._create(args["Reservation"] if "Reservation" in args else args)

    async def op_deletereservation(self, args: dict[str, Any]) -> None:
        await self.store.txn(
            [], [Delete(f"/calico/resources/v3/projectcalico.org/ipreservations/{args['Name']}".encode())]
        )

    async def op_put(self, args: dict[str, Any]) -> None:
        await self._put(args["Key"], args["Value"])

    async def op_ageblocks(self, _args: dict[str, Any]) -> None:
        for kv in (await self.store.range(b"/calico/ipam/v2/assignment/")).kvs:
            block = json.loads(kv.value)
            if "affinity_claim_time" in block:
                block["affinity_claim_time"] = LONG_AGO
            await self._put(kv.key.decode(), block)


def _assigned(found: Assigned | None) -> Any:
    if found is None:
        return None
    shown: dict[str, Any] = {"ips": list(found.addresses), "msgs": list(found.messages), "requested": found.requested}
    if found.shortfall:
        shown["shortfall"] = found.shortfall
    return shown


def _result_problem(step: dict[str, Any], result: Any) -> str:
    expected = step["result"]
    if step["error"] and step["op"] != "autoassign":
        return ""
    if step["op"] == "releaseips" and {k: set(v) for k, v in result.items()} == {
        k: set(v) for k, v in expected.items()
    }:
        return ""
    if result == expected:
        return ""
    chance = {path[1] for path in step.get("varies") or () if path[0] == "result" and path[2:] == ["ips"]}
    if chance and all(_count(result, part) == _count(expected, part) for part in ("v4", "v6")):
        return ""
    return f"result {json.dumps(result)}, expected {json.dumps(expected)}"


def _holds(keys: dict[str, Any], handle: str) -> bool:
    blocks = [value for key, value in keys.items() if "/block/" in key and "allocations" in value]
    return any(entry.get("handle_id") == handle for block in blocks for entry in block["attributes"] or [])


def _may_reorder(mine: list[int], other: list[int]) -> bool:
    """A release of several addresses appends them in random order upstream: equal fronts, equal sets behind."""
    place = next(i for i, (a, b) in enumerate(zip(mine, other, strict=True)) if a != b)
    return mine[place:] == sorted(mine[place:]) and sorted(mine[place:]) == sorted(other[place:])


def _parsed(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value.decode()


def _count(result: Any, part: str) -> int:
    return len((result[part] or {}).get("ips", ()))


def _without_twins(block: dict[str, Any]) -> dict[str, Any]:
    """Upstream keeps an empty attribute map and none apart until they are stored; to us they are one record."""
    attributes = block["attributes"] or []
    firsts = [attributes.index(attribute) for attribute in attributes]
    if len(set(firsts)) == len(firsts):
        return block
    kept = sorted(set(firsts))
    allocations = [None if index is None else kept.index(firsts[index]) for index in block["allocations"]]
    return {**block, "attributes": [attributes[index] for index in kept], "allocations": allocations}


def _invariant_problem(keys: dict[str, Any]) -> str:
    """spec/ipam.md 2.4, and handles that count what the blocks say."""
    truth: dict[str, dict[str, int]] = {}
    for key, block in keys.items():
        if "/assignment/" not in key:
            continue
        used = [index for index in block["allocations"] if index is not None]
        if set(used) != set(range(len(block["attributes"] or ()))):
            return f"{key}: allocations {used} of {len(block['attributes'] or ())} attributes"
        in_use = [ordinal for ordinal, index in enumerate(block["allocations"]) if index is not None]
        if sorted([*block["unallocated"], *in_use]) != list(range(len(block["allocations"]))):
            return f"{key}: unallocated {block['unallocated']} beside {in_use} in use"
        for index in used:
            handle = block["attributes"][index].get("handle_id")
            if handle is not None:
                counts = truth.setdefault(handle, {})
                counts[block["cidr"]] = counts.get(block["cidr"], 0) + 1
    stored = {key.rpartition("/")[2]: value["block"] for key, value in keys.items() if "/handle/" in key}
    return "" if stored == truth else f"handles {stored}, the blocks say {truth}"
