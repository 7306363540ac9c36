"""A CNI call as an attachment: the wanted addresses, labels and device of its configuration and arguments."""

from __future__ import annotations

import msgspec

from libcalico.cni import errors
from libcalico.cni.context import Context
from libcalico.cni.errors import CniError
from libcalico.workload.names import canonical_address
from libcalico.workload.request import POLICY_TIMEOUT_S, AddressRequest, Attachment, Device


def whole_attachment(context: Context, mtu: int) -> Attachment:
    """All that an ADD wants; `CniError` for what it cannot have."""
    conf = context.conf
    device = Device(
        mac=(context.arguments.get("MAC") or conf.mac).lower(),
        mtu=mtu,
        queues=conf.num_queues,
        allow_ip_forwarding=conf.allow_ip_forwarding,
    )
    return context.work.attachment._replace(
        addresses=address_request(context),
        device=device,
        labels=context.labels.labels,
        needs_profile=not conf.policy_type,
        policy_timeout_s=float(conf.policy_timeout_s) or POLICY_TIMEOUT_S,
    )


def address_request(context: Context) -> AddressRequest:
    """What the call wants of IPAM; labels with pools go before the configuration's."""
    conf, found = context.conf, context.labels
    return AddressRequest(
        fixed=_fixed(context),
        want_v4=conf.want_v4,
        want_v6=conf.want_v6,
        pools_v4=_pool_list(found.pools_v4) if found.pools_v4 else conf.pools_v4,
        pools_v6=_pool_list(found.pools_v6) if found.pools_v6 else conf.pools_v6,
    )


def _fixed(context: Context) -> tuple[str, ...]:
    """The fixed addresses of the call: CNI_ARGS, else the configuration's conventions and Mesos' request."""
    text = context.arguments.get("IP", "")
    if not text:
        found = []
        for address in context.conf.wanted_ips:
            try:
                found.append(canonical_address(address))
            except ValueError:
                raise CniError(errors.GENERAL, f"invalid IP address: {address}") from None
        return tuple(found)
    try:
        return (canonical_address(text),)
    except ValueError:
        problem = f'ARGS: error parsing value of pair "IP={text}": invalid IP address: {text}'
        raise CniError(errors.GENERAL, problem) from None


def _pool_list(text: str) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.MsgspecError as error:
        raise CniError(errors.GENERAL, f"pool list {text!r} is no JSON array of strings: {error}") from error
