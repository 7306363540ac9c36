"""Addresses for a call: what `calico-ipam` does, in-process (spec/cni.md 7), or what another IPAM plug-in does."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from collections.abc import Callable, Container, Iterable, Sequence

import msgspec

from libcalico.cni import errors, result
from libcalico.cni.context import CALL_TIMEOUT_S, Context
from libcalico.cni.errors import CniError
from libcalico.cni.result import Addresses
from libcalico.errors import CalicoError, DatastoreError, ResourceAlreadyExists, ResourceDoesNotExist, Unreachable
from libcalico.ipam.assignment import Assigned, AssignError, Beside
from libcalico.ipam.plan import NoQualifiedPool
from libcalico.ipam.release import Release
from libcalico.ipam.transaction import View
from libcalico.kernel import process
from libcalico.model.resources import IPPool

OWN_PLUGIN = "calico-ipam"
POOLS_TIMEOUT_S = 30.0
PLUGIN_TIMEOUT_S = 15.0


async def assign(context: Context, beside: Beside | None = None) -> Addresses:
    """Addresses as /32 and /128, IPv4 first; all that were asked for, or an error and none (even if etcd's answer is
    lost: what may have been assigned is given back).

    `beside` (see `ipam.service`) only goes with addresses that IPAM may choose."""
    wanted = wanted_addresses(context)
    pools4 = await resolve_pools(context, 4) if context.conf.want_v4 or wanted else ()
    pools6 = await resolve_pools(context, 6) if context.conf.want_v6 or any(":" in ip for ip in wanted) else ()
    if wanted:
        found = await _assign_wanted(context, wanted, pools4, pools6)
    else:
        found = await _auto_assign(context, pools4, pools6, beside)
    return Addresses(tuple(f"{address}/{128 if ':' in address else 32}" for address in found))


def wanted_addresses(context: Context) -> tuple[str, ...]:
    """The fixed addresses of the call: CNI_ARGS, else the configuration's conventions and Mesos' request."""
    text = context.arguments.get("IP", "")
    if not text:
        found = []
        for address in context.conf.wanted_ips:
            try:
                found.append(_canonical(address))
            except ValueError:
                raise CniError(errors.GENERAL, f"invalid IP address: {address}") from None
        return tuple(found)
    try:
        return (_canonical(text),)
    except ValueError:
        problem = f'ARGS: error parsing value of pair "IP={text}": invalid IP address: {text}'
        raise CniError(errors.GENERAL, problem) from None


def _canonical(text: str) -> str:
    """An IPv4 address in IPv6's clothes (`::ffff:192.0.2.1`) is the IPv4 address, as Go reads it."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


async def resolve_pools(context: Context, version: int) -> tuple[str, ...]:
    """The pool list of a family as CIDRs; entries are CIDRs or names of pools."""
    listed: Sequence[str] = context.conf.pools_v4 if version == 4 else context.conf.pools_v6
    text = context.labels.pools_v4 if version == 4 else context.labels.pools_v6
    if text:
        listed = _pool_list(text)
    if not listed:
        return ()
    async with asyncio.timeout(POOLS_TIMEOUT_S):
        cidrs = [await _pool_cidr(context, entry) for entry in listed]
    for cidr in cidrs:
        address = cidr.partition("/")[0]
        if (":" in address) != (version == 6):
            raise CniError(errors.GENERAL, f'"{address}" isn\'t a IPv{version} address')
    return tuple(cidrs)


def _pool_list(text: str) -> list[str]:
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.MsgspecError as error:
        raise CniError(errors.GENERAL, f"pool list {text!r} is no JSON array of strings: {error}") from error


async def _pool_cidr(context: Context, entry: str) -> str:
    if "/" in entry:
        try:
            return str(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            raise CniError(errors.GENERAL, f'error parsing pool "{entry}": invalid CIDR address: {entry}') from None
    try:
        pool = await context.client.get(IPPool, entry)
    except ResourceDoesNotExist:
        raise CniError(errors.GENERAL, f'error parsing pool "{entry}": invalid CIDR address: {entry}') from None
    return str(pool.spec.cidr)


def attributes(context: Context) -> dict[str, str]:
    """What is stored with each address."""
    now = context.host.clock.now()
    fraction = f"{now.microsecond:06d}".rstrip("0")
    moment = now.strftime("%Y-%m-%d %H:%M:%S") + (f".{fraction}" if fraction else "")
    return {"node": context.node, "timestamp": f"{moment} +0000 UTC"}


async def _assign_wanted(
    context: Context, wanted: Sequence[str], pools4: Sequence[str], pools6: Sequence[str]
) -> tuple[str, ...]:
    for address in wanted:
        limits = pools6 if ":" in address else pools4
        ip = ipaddress.ip_address(address)
        if limits and not any(ip in ipaddress.ip_network(cidr) for cidr in limits):
            raise CniError(errors.GENERAL, f"{address} is in none of the pools {', '.join(limits)}")
    done: list[str] = []
    for address in wanted:
        try:
            await context.ipam.assign_ip(address, context.handle, attributes(context), context.node, "Workload")
        except CalicoError as error:
            await _give_back_after(error, context, [*done, address] if _may_be_done(error) else done)
            raise
        done.append(address)
    return tuple(done)


async def _auto_assign(
    context: Context, pools4: Sequence[str], pools6: Sequence[str], beside: Beside | None
) -> tuple[str, ...]:
    conf = context.conf
    tried: list[str] = []

    def note(view: View, cidrs: Sequence[str]) -> None:
        tried[:] = [cidr.partition("/")[0] for cidr in cidrs]
        if beside is not None:
            beside(view, cidrs)

    try:
        v4, v6 = await context.ipam.auto_assign(
            int(conf.want_v4),
            int(conf.want_v6),
            context.handle,
            attributes(context),
            pools4,
            pools6,
            host=context.node,
            beside=note,
        )
    except AssignError as error:
        unsure = tried if _may_be_done(error.cause) and beside is None else []
        await _give_back_after(error, context, [*_bare(error.v4, error.v6), *unsure])
        if isinstance(error.cause, ResourceAlreadyExists | DatastoreError):
            raise error.cause from None
        if isinstance(error.cause, NoQualifiedPool):
            context.notes.append(_without_pool(context, 6 if error.v4 is not None or not conf.want_v4 else 4))
        raise
    found = _bare(v4, v6)
    for version, part in ((4, v4), (6, v6)):
        if part is not None and part.shortfall:
            await give_back(context, found)
            raise CniError(errors.GENERAL, f"failed to request IPv{version} addresses: {part.shortfall}")
    return tuple(found)


def _without_pool(context: Context, version: int) -> str:
    """Upstream's error does not say which family it means."""
    text = f"no IPv{version} address: no IP pool of this family is enabled for node {context.node}"
    return f'{text}: create one (calicoctl get ippool -o wide), or set ipam.assign_ipv{version} to "false"'


def _bare(*parts: Assigned | None) -> list[str]:
    return [cidr.partition("/")[0] for part in parts if part is not None for cidr in part.addresses]


def _may_be_done(error: object) -> bool:
    """A write whose answer was lost; one for which nothing was reached was not sent."""
    return isinstance(error, DatastoreError) and not isinstance(error, Unreachable)


async def _give_back_after(error: CalicoError, context: Context, addresses: Sequence[str]) -> None:
    """The first failure is the one to tell."""
    try:
        await give_back(context, addresses)
    except CalicoError as further:
        context.notes.append(f"after {error}: give {', '.join(addresses)} back: {further}")


async def give_back(context: Context, addresses: Iterable[str]) -> None:
    """Release these addresses of the call's handle; what is not ours any more stays."""
    wanted = [Release(address, context.handle) for address in addresses]
    if wanted:
        await context.ipam.release_ips(wanted)


async def release(
    context: Context,
    networks: Sequence[str],
    only: Sequence[str] | None = None,
    kept: Container[str] = (),
    beside: Callable[[View], None] | None = None,
) -> int:
    """Release what the container holds on this node in these networks: `only` those addresses, and not the `kept`.

    Returns how many there were; none is fine. The bare container id is the handle of very old endpoints: it is looked
    up when the others hold nothing. `beside` may write more keys in the same transaction."""
    *handles, bare = _handles(context, networks)
    return await context.ipam.release_held(handles, bare, only, kept, beside)


async def release_known(context: Context, networks: Sequence[str], known: Sequence[str]) -> None:
    """Release addresses that the endpoint tells of, if they are the container's still: a handle's index may be lost."""
    handles = _handles(context, networks)
    for address in known:
        try:
            attribute = await context.ipam.get_assignment_attributes(address)
        except ResourceDoesNotExist:
            continue
        node = dict(attribute.secondary).get("node")
        if attribute.handle in handles and node in {None, "", context.node}:
            await context.ipam.release_ips([Release(address, attribute.handle)])


def _handles(context: Context, networks: Sequence[str]) -> list[str]:
    container = context.call.container_id
    return [*(f"{network}.{container}" for network in networks), container]


async def holding_node(context: Context) -> str:
    """The node that the addresses of the call's handle name, "" when there are none."""
    try:
        held = await context.ipam.ips_by_handle(context.handle)
        attribute = await context.ipam.get_assignment_attributes(held[0]) if held else None
    except ResourceDoesNotExist:
        return ""
    return dict(attribute.secondary).get("node", "") if attribute is not None else ""


# --- other IPAM plug-ins ---------------------------------------------------------------------------------------------


def find_plugin(name: str, path: str) -> str:
    """The executable of a plug-in on CNI_PATH."""
    if not name:
        raise CniError(errors.GENERAL, "no plugin name provided")
    directories = [directory for directory in path.split(":") if directory]
    for directory in directories:
        full = os.path.join(directory, name)
        if "/" not in name and os.path.isfile(full):
            return full
    raise CniError(errors.GENERAL, f'failed to find plugin "{name}" in path [{" ".join(directories)}]')


async def run_plugin(context: Context, command: str) -> Addresses:
    """Another IPAM plug-in with this command and the call's own environment and stdin; its error passes through.

    `TimeoutError` when it has not ended: an ADD has all the time of its call, every other command 15 s."""
    path = find_plugin(context.conf.ipam_type, context.call.path)
    environment = {**context.call.environment, "CNI_COMMAND": command}
    timeout_s = CALL_TIMEOUT_S if command == "ADD" else PLUGIN_TIMEOUT_S
    outcome = await process.run(path, environment, context.call.stdin, timeout_s)
    if outcome.stderr:
        context.notes.append(outcome.stderr.decode("utf-8", "replace").rstrip())
    if outcome.exit_code:
        raise _plugin_error(outcome)
    if command != "ADD":
        return Addresses(())
    try:
        return result.parse_result(json.loads(outcome.stdout))
    except ValueError as error:
        raise CniError(errors.GENERAL, f"the IPAM plugin's result is not JSON: {error}") from error


def _plugin_error(outcome: process.Outcome) -> CniError:
    try:
        found = json.loads(outcome.stdout)
        return CniError(int(found["code"]), str(found["msg"]), str(found.get("details", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        text = outcome.stdout.decode("utf-8", "replace").strip() or f"exit status {outcome.exit_code}"
        return CniError(errors.GENERAL, f"netplugin failed: {text}")
