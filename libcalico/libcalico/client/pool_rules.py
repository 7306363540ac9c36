"""What the client checks of an IPPool against the rest of the cluster (spec/resources.md 6.1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

import msgspec

from libcalico.datastore.contract import KeyValue
from libcalico.errors import FieldError
from libcalico.model.keys import BlockKey, parse_key
from libcalico.model.resources import IPPool
from libcalico.model.scalars import IPNetwork, is_masked, parse_net
from libcalico.model.validation.pools import structure_errors

CIDR = "IPPool.Spec.CIDR"
SETTLE_S = 0.5


def client_errors(pool: IPPool, former: IPPool | None, pools: Sequence[IPPool]) -> list[FieldError]:
    """The errors that come before, and instead of, those of validation."""
    text = pool.spec.cidr
    if not text:
        return [FieldError(CIDR, "", "IPPool CIDR must be specified")]
    net = parse_net(text)
    if net is None or "/" not in text:
        return [FieldError(CIDR, text, "IPPool CIDR must be a valid subnet")]
    errors = []
    if former is not None and parse_net(former.spec.cidr) != net:
        errors.append(FieldError(CIDR, text, "IPPool CIDR cannot be modified"))
    if not is_masked(text):
        errors.append(FieldError(CIDR, str(net), "IPPool CIDR is not strictly masked"))
    if former is None:
        errors += _overlaps(pool, net, pools)
    else:
        if former.spec.block_size != pool.spec.block_size:
            reason = "IPPool BlockSize cannot be modified"
            errors.append(FieldError("IPPool.Spec.BlockSize", str(pool.spec.block_size), reason))
        if former.spec.allowed_uses == ["LoadBalancer"] and pool.spec.allowed_uses != ["LoadBalancer"]:
            reason = "IPPool allowed use cannot be changed from LoadBalacer to Workload or Tunnel"
            errors.append(FieldError("IPPool.Spec.AllowedUses", str(pool.spec.allowed_uses), reason))
    return [*structure_errors(pool.spec), *errors]


def _overlaps(pool: IPPool, net: IPNetwork, pools: Sequence[IPPool]) -> list[FieldError]:
    errors = []
    for other in pools:
        theirs = parse_net(other.spec.cidr)
        if other.metadata.name == pool.metadata.name or theirs is None or theirs.version != net.version:
            continue
        if theirs.overlaps(net):
            reason = (
                f"IPPool({pool.metadata.name}) CIDR overlaps with IPPool({other.metadata.name}) CIDR {other.spec.cidr}"
            )
            errors.append(FieldError(CIDR, str(net), reason))
    return errors


def canonical(pool: IPPool) -> IPPool:
    """The pool with its CIDR in canonical text."""
    spec = msgspec.structs.replace(pool.spec, cidr=str(parse_net(pool.spec.cidr)))
    return msgspec.structs.replace(pool, spec=spec)


def block_size_errors(pool: IPPool, blocks: Iterable[KeyValue]) -> list[FieldError]:
    """A new pool must not lie over blocks of another size; `blocks` are the pairs of all stored ones."""
    net = ipaddress.ip_network(pool.spec.cidr)
    for kv in blocks:
        key = parse_key(kv.key)
        if not isinstance(key, BlockKey):
            continue
        block = ipaddress.ip_network(key.cidr)
        if block.version == net.version and block.overlaps(net) and block.prefixlen != pool.spec.block_size:
            reason = "IPPool blocksSize conflicts with existing allocations that use a different blockSize"
            return [FieldError("IPPool.Spec.BlockSize", str(pool.spec.block_size), reason)]
    return []
