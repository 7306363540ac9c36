"""`ipam.jsonl`: sequences of IPAM operations with the datastore's keys after each (vectors/IPAM.md).

Played on the datastore in memory, by the library that the agent and the plug-in use.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from libcalico.client.objects import AsyncClient
from libcalico.datastore.contract import Delete
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import CalicoError
from libcalico.ipam.assignment import Assigned, AssignError
from libcalico.ipam.release import Release
from libcalico.ipam.service import IpamService
from libcalico.model.codec import from_input
from libcalico.model.ipam_data import Block, Config
from libcalico.model.keys import ResourceKey, key_path
from libcalico.model.resources import STRUCTS
from tests.compat.contract import (
    Each,
    Options,
    Result,
    Shape,
    json_lines,
    judged,
    show,
    tree_differences,
    unknown_members,
)
from tests.compat.ipam_judge import IpamJudge

FEATURES: frozenset[str] = frozenset()
"""Words of `needs` that our IPAM has: neither Windows hosts nor owner attributes."""
LONG_AGO = "2020-01-01T00:00:00Z"
ORPHANED = "orphaned allocation blocks"
OURS: Shape = {"args": None, "result": None, "error": None, "error~": None, "keys": None}
CASE: Shape = {
    "name": None, "note": None, "source": None, "needs": None, "start": Each(Each(None)),
    "given": {"pools": None, "nodes": None, "reservations": None, "config": None, "raw": None},
    "steps": [{
        "op": None, "args": None, "result": None, "error": None, "error_kind": None, "error_cause": None,
        "keys": None, "varies": None, "ours": OURS, "decided": None,
    }],
}  # fmt: skip
ARGUMENTS = {
    "autoassign": "Num4 Num6 Handle Attrs Host Pools4 Pools6 MaxBlocks MaxAlloc Use Namespace",
    "assignip": "IP Host Handle Attrs Use MaxAlloc",
    "releaseips": "IPs",
    "releasebyhandle": "Handle Host",
    "ipsbyhandle": "Handle",
    "getassignmentattributes": "IP",
    "claimaffinity": "CIDR Host",
    "releaseaffinity": "CIDR Host MustBeEmpty",
    "releaseblockaffinity": "CIDR MustBeEmpty",
    "releasehostaffinities": "Host Type MustBeEmpty",
    "releasepoolaffinities": "CIDR",
    "removeipamhost": "Host",
    "ensureblock": "Host",
    "getutilization": "Pools",
    "getipamconfig": "",
    "setipamconfig": "StrictAffinity AutoAllocateBlocks MaxBlocksPerHost Persistence",
    "createpool": "Resource",
    "createreservation": "Resource",
    "updatepool": "Name Value",
    "deletepool": "Name",
    "deletereservation": "Name",
    "deletenode": "Name",
    "labelnode": "Name Attrs",
    "put": "Key Value",
    "ageblocks": "",
}
"""The operations that are played, with the arguments that each one passes on."""


def claims(_path: Path, head: bytes) -> bool:
    """Each line has `given`, `start` and `steps` with `op`."""
    first = head.split(b"\n", 1)[0]
    return b'"given"' in first and b'"start"' in first and b'"op"' in first


def check(path: Path, options: Options) -> Iterator[Result]:
    """Every sequence."""
    for place, case, problem in json_lines(path):
        name = str(case.get("name", place))
        if options.only not in name:
            continue
        missing = [word for word in case.get("needs", ()) if word not in FEATURES]
        if problem:
            yield Result(name, (problem,))
        elif missing:
            yield Result(name, skipped=f"needs {', '.join(missing)}")
        else:
            yield judged(name, lambda case=case: asyncio.run(Player(case).play()))  # type: ignore[misc]


class Player:
    """One sequence."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.store = MemoryDatastore()
        self.client = AsyncClient(self.store)
        self.ipam = self._service("")
        self.judge = IpamJudge("config" in case["given"])

    def _service(self, host: str) -> IpamService:
        return IpamService(self.store, host, first_block=self._first)

    def _first(self, host: str, pool: str, blocks: int) -> int:
        return int(self.case["start"].get(host, {}).get(pool, 0)) % blocks

    async def play(self) -> list[str]:
        """Every difference of every step."""
        found = unknown_members(self.case, CASE)
        await self.client.ensure_initialized()
        given = self.case["given"]
        for resource in [*given.get("pools", []), *given.get("nodes", []), *given.get("reservations", [])]:
            await self._create(resource)
        if "config" in given:
            await self._put("/calico/ipam/v2/config", given["config"])
        for key, value in (given.get("raw") or {}).items():
            await self._put(key, value)
        for number, recorded in enumerate(self.case["steps"]):
            step = {**recorded, **recorded.get("ours", {})}
            place = f"step {number} {step['op']} {show(step['args'], 120)}: "
            found += [place + text for text in await self._step(step)]
        return found

    async def _put(self, key: str, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        await self.store.put(key.encode(), text.encode())

    async def _create(self, resource: dict[str, Any]) -> None:
        if resource["kind"] in STRUCTS:
            await self.client.create(from_input(resource))
        else:
            await self._put(key_path(ResourceKey(resource["kind"], resource["metadata"]["name"])), resource)

    async def _step(self, step: dict[str, Any]) -> list[str]:
        operation = getattr(self, f"op_{step['op']}", None)
        if operation is None or step["op"] not in ARGUMENTS:
            return ["this operation is not known"]
        unknown = step["args"].keys() - set(ARGUMENTS[step["op"]].split())
        if unknown:
            return [f"arguments that are not passed on: {', '.join(sorted(unknown))}"]
        result, error = await self._call(operation, step)
        found = error_differences(step, error)
        if step["op"] == "autoassign" or not (step.get("error") or "error~" in step):
            found += result_differences(step, result)
        stored = await self.store.range(b"/calico/ipam/")
        ours = {kv.key.decode(): _parsed(kv.value) for kv in stored.kvs}
        return found + self.judge.differences(ours, step["keys"], step["op"], step.get("varies") or ())

    async def _call(self, operation: Any, step: dict[str, Any]) -> tuple[Any, str | None]:
        try:
            return await operation(step["args"]), None
        except AssignError as failure:
            return {"v4": _assigned(failure.v4), "v6": _assigned(failure.v6)}, str(failure)
        except CalicoError as failure:
            return None, str(failure)

    async def op_autoassign(self, args: dict[str, Any]) -> Any:
        v4, v6 = await self.ipam.auto_assign(
            num4=args.get("Num4", 0), num6=args.get("Num6", 0), handle=args.get("Handle"),
            attributes=args.get("Attrs"), pools4=args.get("Pools4") or (), pools6=args.get("Pools6") or (),
            use=args.get("Use", "Workload"), namespace_labels=args.get("Namespace"),
            max_blocks=args.get("MaxBlocks", 0), max_alloc=args.get("MaxAlloc", 0), host=args.get("Host", ""),
        )  # fmt: skip
        return {"v4": _assigned(v4), "v6": _assigned(v6)}

    async def op_assignip(self, args: dict[str, Any]) -> None:
        await self.ipam.assign_ip(
            args["IP"], args.get("Handle"), args.get("Attrs"), args.get("Host", ""),
            use=args.get("Use", ""), max_alloc=args.get("MaxAlloc", 0),
        )  # fmt: skip

    async def op_releaseips(self, args: dict[str, Any]) -> Any:
        entries = []
        for entry in args["IPs"]:
            sequence = entry.get("Sequence")
            if sequence is not None:
                sequence += self.judge.base_of(entry["Address"])
            entries.append(Release(entry["Address"], entry.get("Handle"), sequence))
        released = await self.ipam.release_ips(entries)
        return {"done": list(released.done), "unallocated": list(released.unallocated)}

    async def op_releasebyhandle(self, args: dict[str, Any]) -> None:
        await self._service(args.get("Host", "")).release_by_handle(args["Handle"])

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
        kind = args.get("Type") or "host"
        await self.ipam.release_host_affinities(args["Host"], args.get("MustBeEmpty", False), kind)

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

    async def op_getutilization(self, args: dict[str, Any]) -> Any:
        wanted = args.get("Pools") or ()
        shown = []
        for usage in await self.ipam.get_utilization():
            if usage.pool is None:
                name, cidr = ORPHANED, "0.0.0.0/0"
            else:
                name, cidr = usage.pool.name, str(usage.pool.network)
            if not wanted or (usage.pool is not None and (name in wanted or cidr in wanted)):
                shown.append({"name": name, "cidr": cidr, "blocks": [_usage(block) for block in usage.blocks]})
        return sorted(shown, key=lambda one: (one["name"] == ORPHANED, one["name"]))

    async def op_getipamconfig(self, _args: dict[str, Any]) -> Any:
        config = await self.ipam.get_config()
        return {
            "autoAllocateBlocks": config.auto_allocate_blocks, "maxBlocksPerHost": config.max_blocks_per_host,
            "persistence": config.persistence, "strictAffinity": config.strict_affinity,
        }  # fmt: skip

    async def op_setipamconfig(self, args: dict[str, Any]) -> None:
        await self.ipam.set_config(
            Config(
                args.get("StrictAffinity", False),
                args.get("AutoAllocateBlocks", False),
                args.get("MaxBlocksPerHost", 0),
                args.get("Persistence"),
            )
        )

    async def op_ensureblock(self, args: dict[str, Any]) -> Any:
        v4, v6 = await self.ipam.ensure_block(args["Host"])
        return {"v4": v4, "v6": v6}

    async def op_createpool(self, args: dict[str, Any]) -> None:
        await self._create(args["Resource"])

    op_createreservation = op_createpool

    async def op_updatepool(self, args: dict[str, Any]) -> None:
        pool = await self.client.get("IPPool", args["Name"])
        spec = {**msgspec.to_builtins(pool.spec), **args["Value"]}
        await self.client.update(msgspec.structs.replace(pool, spec=msgspec.convert(spec, type(pool.spec))))

    async def op_deletepool(self, args: dict[str, Any]) -> None:
        await self.client.delete("IPPool", args["Name"])

    async def op_deletereservation(self, args: dict[str, Any]) -> None:
        await self.store.txn([], [Delete(key_path(ResourceKey("IPReservation", args["Name"])).encode())])

    async def op_deletenode(self, args: dict[str, Any]) -> None:
        await self.client.delete("Node", args["Name"])

    async def op_labelnode(self, args: dict[str, Any]) -> None:
        node = await self.client.get("Node", args["Name"])
        labels = msgspec.structs.replace(node.metadata, labels=args["Attrs"])
        await self.client.update(msgspec.structs.replace(node, metadata=labels))

    async def op_put(self, args: dict[str, Any]) -> None:
        await self._put(args["Key"], args["Value"])

    async def op_ageblocks(self, _args: dict[str, Any]) -> None:
        for kv in (await self.store.range(b"/calico/ipam/v2/assignment/")).kvs:
            block = json.loads(kv.value)
            if block.get("affinity_claim_time"):
                await self._put(kv.key.decode(), {**block, "affinity_claim_time": LONG_AGO})


def _usage(block: Block) -> dict[str, Any]:
    return {"cidr": block.cidr, "capacity": len(block.allocations), "available": len(block.unallocated)}


def _assigned(found: Assigned | None) -> Any:
    if found is None:
        return None
    shown: dict[str, Any] = {"ips": list(found.addresses), "msgs": list(found.messages), "requested": found.requested}
    if found.shortfall:
        shown["shortfall"] = found.shortfall
    return shown


def error_differences(step: dict[str, Any], error: str | None) -> list[str]:
    """`error` is exact; `error~` is a list of words, all of which occur."""
    if "error~" in step:
        if error is None:
            return [f"no error, expected one with {step['error~']}"]
        lacking = [word for word in step["error~"] if word.lower() not in error.lower()]
        return [f"error {error!r} lacks {lacking}"] if lacking else []
    wanted = step["error"] or None
    return [] if error == wanted else [f"error {error!r}, expected {wanted!r}"]


def result_differences(step: dict[str, Any], result: Any) -> list[str]:
    """Addresses count by their canonical spelling; what varied from recording to recording counts by its number."""
    expected = step["result"]
    ours, theirs = _spelled(result), _spelled(expected)
    for path in step.get("varies") or ():
        if path[0] == "result":
            ours, theirs = _replaced(ours, path[1:]), _replaced(theirs, path[1:])
    if step["op"] == "releaseips" and isinstance(ours, dict) and isinstance(theirs, dict):
        ours, theirs = ({name: sorted(set(value)) for name, value in one.items()} for one in (ours, theirs))
    return tree_differences(ours, theirs, "result")


def _replaced(value: Any, path: list[str]) -> Any:
    """The value with the number of entries where the path leads to a list, else nothing."""
    if not path:
        return len(value) if isinstance(value, list) else None
    if isinstance(value, dict) and path[0] in value:
        return {**value, path[0]: _replaced(value[path[0]], path[1:])}
    return value


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _spelled(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_spelled(one) for one in value]
    if isinstance(value, str) and ":" in value:
        try:
            address = ipaddress.ip_interface(value)
        except ValueError:
            return value
        return str(address) if "/" in value else str(address.ip)
    return value


def _parsed(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value.decode()
