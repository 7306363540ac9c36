"""Compares one step of a CNI case with its expectation (vectors/CNI.md, "Comparing").

`ours` of the step stands over what was recorded. Everything here is pure: values in, differences out.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.compat.contract import show
from tests.compat.error_fields import BEGIN, parse_fields

ANY, UNUSED = "<any>", "<unused>"
CONFIG = "/calico/ipam/v2/config"
DEFAULT_PROFILE = "/calico/resources/v3/projectcalico.org/profiles/projectcalico-default-allow"
HOST_MAC = "ee:ee:ee:ee:ee:ee"
GATEWAY = "169.254.1.1"
WILD = re.compile("<uid>|<time>|<now>|<n>|<link-local>|<any>")
ASSIGNMENT = "/calico/ipam/v2/assignment/"
QUEUES = ("num_tx_queues", "num_rx_queues")
RECORDED_PROCESSORS = 2
ADDRESS = re.compile(r"[0-9a-fA-F:]*:[0-9a-fA-F:.]*|\d+\.\d+\.\d+\.\d+")
Step = dict[str, Any]


# --- what is expected ------------------------------------------------------------------------------------------------


def expectation(step: Step) -> Step:
    """What ours must answer: the recorded aspects by the two rules, `ours` put over them."""
    ours = step.get("ours", {})
    recorded = {name: step[name] for name in ("exit", "stdout", "etcd", "host", "containers")}
    return {**recorded, "stdout": _by_rule(step), **ours}


def _by_rule(step: Step) -> Any:
    """Results of our own IPAM have neither routes nor lengths below the full one; version 1.1.0 is supported."""
    value = step["stdout"]
    if not isinstance(value, dict):
        return value
    value = _with_newest_version(copy.deepcopy(value))
    if step["env"].get("CNI_COMMAND") != "ADD" or _ipam_type(step["stdin"]) != "calico-ipam":
        return value
    value.pop("routes", None)
    for family in ("ip4", "ip6"):
        if isinstance(value.get(family), dict):
            value[family].pop("routes", None)
            value[family]["ip"] = _whole(value[family]["ip"])
    for entry in value.get("ips") or ():
        entry["address"] = _whole(entry["address"])
    return value


def _with_newest_version(value: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value.get("supportedVersions"), list) and "1.1.0" not in value["supportedVersions"]:
        value["supportedVersions"].append("1.1.0")
    for name in ("msg", "details"):
        if isinstance(value.get(name), str):
            value[name] = re.sub(r"(plugin supports \[[^\]]*)\]", _append_version, value[name])
    return value


def _append_version(match: re.Match[str]) -> str:
    listed = match[1]
    if "1.1.0" in listed:
        return f"{listed}]"
    return f'{listed} "1.1.0"]' if listed.endswith('"') else f"{listed} 1.1.0]"


def _ipam_type(stdin: Any) -> Any:
    if isinstance(stdin, str):
        try:
            stdin = json.loads(stdin)
        except ValueError:
            return None
    ipam = stdin.get("ipam") if isinstance(stdin, dict) else None
    return ipam.get("type") if isinstance(ipam, dict) else None


def _whole(address: str) -> str:
    return f"{address.partition('/')[0]}/{128 if ':' in address else 32}"


# --- values with wildcards -------------------------------------------------------------------------------------------


def fits(ours: Any, wanted: Any) -> bool:
    """Is this the wanted value? Placeholders stand for any text."""
    return not differences(ours, wanted)


def differences(ours: Any, wanted: Any, where: str = "", unordered: bool = False) -> list[str]:
    """Every place where a value is not the wanted one. `unordered`: lists are compared without order."""
    if wanted == ANY:
        return []
    if isinstance(ours, dict) and isinstance(wanted, dict):
        return _member_differences(ours, wanted, where, unordered)
    if isinstance(ours, list) and isinstance(wanted, list):
        if unordered:
            return _set_differences(ours, wanted, where)
        if len(ours) == len(wanted):
            pairs = enumerate(zip(ours, wanted, strict=True))
            return [text for n, (a, b) in pairs for text in differences(a, b, f"{where}[{n}]")]
    if isinstance(ours, str) and isinstance(wanted, str) and _text_fits(ours, wanted):
        return []
    if ours == wanted and isinstance(ours, bool) == isinstance(wanted, bool):
        return []
    return [f"{where} is {show(ours, 2000)}, expected {show(wanted, 2000)}"]


def _member_differences(ours: dict[str, Any], wanted: dict[str, Any], where: str, unordered: bool) -> list[str]:
    found = []
    for name in sorted(ours.keys() | wanted.keys()):
        place = f"{where}/{name}"
        if wanted.get(name) == ANY:
            continue
        if name not in ours:
            found.append(f"{place} is missing, expected {show(wanted[name], 2000)}")
        elif name not in wanted:
            found.append(f"{place} is {show(ours[name], 2000)}, expected absent")
        else:
            found += differences(ours[name], wanted[name], place, unordered)
    return found


def _set_differences(ours: list[Any], wanted: list[Any], where: str) -> list[str]:
    """Entries without `<any>` take their partners first, so that the others find what is left."""
    left = list(ours)
    missing = []
    for entry in sorted(wanted, key=lambda one: ANY in json.dumps(one)):
        partner = next((one for one in left if not differences(one, entry, unordered=True)), None)
        if partner is None and entry not in left:
            missing.append(entry)
        else:
            left.remove(partner)
    if len(left) == len(missing) == 1:
        return differences(left[0], missing[0], f"{where}[]", unordered=True)
    found = [f"{where} lacks {show(entry, 2000)}" for entry in missing]
    return found + [f"{where} has {show(entry, 2000)}, expected nothing" for entry in left]


def _text_fits(ours: str, wanted: str) -> bool:
    if not WILD.search(wanted):
        return False
    return re.fullmatch(".+".join(re.escape(part) for part in WILD.split(wanted)), ours, re.DOTALL) is not None


# --- the aspects -----------------------------------------------------------------------------------------------------


def step_differences(seen: Step, step: Step, interfaces: Iterable[str]) -> list[str]:
    """Every difference of a step. `seen` has its aspects with placeholders for what is random, and `stderr`, `text`."""
    wanted = expectation(step)
    found = differences(seen["exit"], wanted["exit"], "exit")
    found += _stdout_differences(seen, wanted["stdout"])
    if "stderr~" in wanted:
        lacking = lacking_words(seen["stderr"], wanted["stderr~"])
        found += [f"stderr lacks {lacking}: {seen['stderr'][-500:]!r}"] if lacking else []
    found += etcd_differences(seen["etcd"], wanted["etcd"])
    return found + kernel_differences(seen, wanted, set(interfaces))


def kernel_differences(seen: Step, wanted: Step, interfaces: set[str]) -> list[str]:
    """Of what the kernel has, on the host and in the containers."""
    found = differences(_kernel(seen["host"]), _kernel(wanted["host"]), "host", unordered=True)
    wired = bool(wanted["host"]["links"])
    for name in sorted(seen["containers"].keys() | wanted["containers"].keys()):
        ours, theirs = seen["containers"].get(name), wanted["containers"].get(name)
        if ours is not None and theirs is not None:
            ours = {**_kernel(ours), "neigh": [one for one in ours["neigh"] if not _is_gateway(one)]}
            theirs = _kernel(theirs)
            if wired:
                theirs["links"] = [_settled(link, interfaces) for link in theirs["links"]]
        found += differences(ours, theirs, f"containers/{name}", unordered=True)
    return found


def _settled(link: dict[str, Any], interfaces: set[str]) -> dict[str, Any]:
    """A wired container's link as it will stand: the kernel may need a second to say UP, and a record may be sooner."""
    return {**link, "operstate": "UP"} if link.get("ifname") in interfaces else link


def with_queues(value: Any, processors: int) -> Any:
    """Links that were recorded with a queue for each of two processors, as a machine with others makes them."""
    if isinstance(value, list):
        return [with_queues(one, processors) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: with_queues(one, processors) for name, one in value.items()}
    queues = {name: processors for name in QUEUES if found.get(name) == RECORDED_PROCESSORS}
    return {**found, **queues}


def _is_gateway(entry: dict[str, Any]) -> bool:
    """The permanent neighbour that may stand in a container."""
    return (entry.get("dst"), entry.get("lladdr"), entry.get("state")) == (GATEWAY, HOST_MAC, ["PERMANENT"])


def _kernel(side: dict[str, Any]) -> dict[str, Any]:
    """Without link-local addresses: the kernel adds them when duplicate detection is over, or not yet."""
    addresses = [{**link, "addr_info": [a for a in link["addr_info"] if _lasts(a)]} for link in side["addrs"]]
    routes = [route for route in side["routes6"] if route.get("dst") != "fe80::/64"]
    return {**side, "addrs": addresses, "routes6": routes}


def _lasts(address: dict[str, Any]) -> bool:
    return not str(address.get("local", "")).startswith(("fe80:", "<link-local>"))


def _stdout_differences(seen: Step, wanted: Any) -> list[str]:
    ours = seen["stdout"]
    if isinstance(wanted, dict) and "text~" in wanted:
        if isinstance(ours, dict) and set(ours) != {"text"}:
            return [f"stdout is the object {show(ours)}, expected text"]
        lacking = lacking_words(seen["text"], wanted["text~"])
        return [f"stdout lacks {lacking}: {seen['text']!r}"] if lacking else []
    if isinstance(wanted, dict) and "msg~" in wanted:
        if not isinstance(ours, dict):
            return [f"stdout is {show(ours)}, expected an error object"]
        text = f"{ours.get('msg', '')} {ours.get('details', '')}"
        lacking = lacking_words(text, wanted["msg~"])
        own_rest, rest = (
            {name: value for name, value in one.items() if name not in ("msg", "details", "msg~")}
            for one in (ours, wanted)
        )
        return [f"stdout lacks {lacking}: {text!r}"] * bool(lacking) + differences(own_rest, rest, "stdout")
    return differences(_without_order(ours), _without_order(wanted), "stdout")


def _without_order(value: Any) -> Any:
    """An error of several fields: what stands before it, and the set of its (field, reason)."""
    if not isinstance(value, dict):
        return value
    found = dict(value)
    for name in ("msg", "details"):
        if isinstance(found.get(name), str) and "error with the following fields:" in found[name]:
            found[name] = [BEGIN.split(found[name])[0], sorted(map(list, parse_fields(found[name])))]
    return found


def lacking_words(text: str, words: Iterable[str]) -> list[str]:
    """The words that do not occur; `a|b` is one of them, case does not count."""
    low = text.lower()
    return [word for word in words if not any(part.lower() in low for part in word.split("|"))]


def etcd_differences(ours: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Keys and values, but for numbers and times."""
    found = []
    for key in sorted((ours.keys() | wanted.keys()) - {CONFIG, DEFAULT_PROFILE}):
        if wanted.get(key) == UNUSED:
            used = [one for one in (ours.get(key) or {}).get("allocations") or () if one is not None]
            found += [f"{key} has {len(used)} addresses, expected none"] if used else []
        elif key not in wanted:
            found.append(f"{key} is {show(_stored(key, ours[key]))}, expected absent")
        elif key not in ours:
            found.append(f"{key} is missing, expected {show(_stored(key, wanted[key]))}")
        else:
            found += differences(_stored(key, ours[key]), _stored(key, wanted[key]), key)
    return found


def _stored(key: str, value: Any) -> Any:
    """What counts of a value."""
    if not isinstance(value, dict) or not key.startswith("/calico/ipam/"):
        return value
    if key.startswith(ASSIGNMENT) and isinstance(value.get("allocations"), list):
        return _block(value)
    if key.startswith("/calico/ipam/v2/handle/"):
        return {"block": value.get("block")}
    return {"state": value.get("state")}


def _block(value: dict[str, Any]) -> dict[str, Any]:
    attributes = value.get("attributes") or []
    used = {n: index for n, index in enumerate(value["allocations"]) if index is not None}
    held = {}
    for ordinal, index in used.items():
        attribute = attributes[index] if isinstance(index, int) and index < len(attributes) else {}
        held[str(ordinal)] = [attribute.get("handle_id"), (attribute.get("secondary") or {}).get("node")]
    shown = {name: value.get(name) for name in ("cidr", "affinity", "unallocated")}
    return {**shown, "held": held, "attribute entries in use": len(set(map(str, used.values())))}


# --- blocks under other names ----------------------------------------------------------------------------------------


class BlockNames:
    """In a pool of several blocks the n-th that appears counts as the n-th of the expectation."""

    def __init__(self, pools: Iterable[dict[str, Any]]) -> None:
        networks = [(_network(pool["spec"]["cidr"]), pool["spec"].get("blockSize")) for pool in pools]
        self._pools = [net for net, size in networks if net is not None and _has_several(net, size)]
        self._ours: list[Any] = []
        self._theirs: list[Any] = []

    def learn(self, ours: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """The keys of one step, before they are compared."""
        for keys, known in ((ours, self._ours), (wanted, self._theirs)):
            known += [block for block in self._blocks(keys) if block not in known]

    def _blocks(self, keys: Mapping[str, Any]) -> Iterator[Any]:
        for key in keys:
            network = _network(key.rpartition("/")[2].replace("-", "/")) if key.startswith(ASSIGNMENT) else None
            if network is not None and any(_contains(pool, network) for pool in self._pools):
                yield network

    def pairs(self) -> list[tuple[Any, Any]]:
        """(own block, expected block), where they are not one."""
        found = []
        for pool in self._pools:
            mine, other = ([b for b in known if _contains(pool, b)] for known in (self._ours, self._theirs))
            found += [(a, b) for a, b in zip(mine, other, strict=False) if a != b and a.prefixlen == b.prefixlen]
        return found

    def rename(self, value: Any) -> Any:
        """The value with addresses of own blocks as those of the expected ones."""
        pairs = self.pairs()
        return _renamed(value, pairs) if pairs else value


def _renamed(value: Any, pairs: list[tuple[Any, Any]]) -> Any:
    if isinstance(value, str):
        return ADDRESS.sub(lambda match: _moved(match[0], pairs), value)
    if isinstance(value, list):
        return [_renamed(one, pairs) for one in value]
    if isinstance(value, dict):
        return {_renamed(name, pairs): _renamed(one, pairs) for name, one in value.items()}
    return value


def _moved(text: str, pairs: list[tuple[Any, Any]]) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    for mine, other in pairs:
        if address.version == mine.version and address in mine:
            return str(other.network_address + (int(address) - int(mine.network_address)))
    return text


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _has_several(network: Any, size: int | None) -> bool:
    return bool(network.prefixlen < (size or (26 if network.version == 4 else 122)))


def _contains(pool: Any, network: Any) -> bool:
    return bool(pool.version == network.version and network.subnet_of(pool))
