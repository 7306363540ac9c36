"""The facts of a rendered BIRD configuration, by family, in the form of `vectors/BGP.md`; read from its text alone.

`problems` holds what is the same in every case and is not so in this text.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.compat.bird_text import Block, Statement, parse

FUNCTION = re.compile(r"bgp_(.*)_(import|export)FilterV([46])")
ALWAYS_IN_TEMPLATE = {
    ("connect", "delay", "time", "2"), ("connect", "retry", "time", "5"), ("error", "wait", "time", "5", ",", "30"),
    ("graceful", "restart"),
}  # fmt: skip
ALWAYS_IN_CHANNEL = {("gateway", "recursive"), ("add", "paths", "on")}
ALWAYS_IN_KERNEL = {
    ("learn",), ("persist",), ("scan", "time", "2"), ("graceful", "restart"), ("merge", "paths", "on"),
    ("metric", "0"),
}  # fmt: skip
Facts = dict[str, Any]


def read_facts(text: str, filter_names: Iterable[str]) -> tuple[dict[int, Facts], list[str]]:
    """The facts of both families, and what is wrong in any case."""
    reader = _Configuration(parse(text), filter_names)
    facts = {family: reader.facts(family) for family in (4, 6)}
    return facts, reader.problems


def net(text: str) -> str:
    """A network as one text, whatever its spelling."""
    return str(ipaddress.ip_network(text, strict=False))


def flat(statement: Statement) -> str:
    """The words of a statement with blanks between them."""
    return " ".join("{ " + "; ".join(map(flat, one)) + " }" if isinstance(one, Block) else one for one in statement)


class _Configuration:
    def __init__(self, tree: Block, filter_names: Iterable[str]) -> None:
        self.problems: list[str] = []
        self.known = {stem: name for name in filter_names for stem in _stems(name)}
        self.defined = {str(one[1]): str(one[3]) for one in tree if one[0] == "define"}
        self.functions = {str(one[1]): one for one in tree if one[0] == "function"}
        self.kernel_filters = {str(one[1]): one for one in tree if one[0] == "filter"}
        self.router_id = [str(one[2]) for one in tree if one[:2] == ("router", "id")]
        self.templates = [one for one in tree if one[0] == "template"]
        self.protocols = [one for one in tree if one[0] == "protocol"]
        names = [str(one[2]) for one in self.protocols if one[1] in ("bgp", "kernel", "static")]
        names += [*self.functions, *self.kernel_filters]
        if len(set(names)) != len(names) or any(len(name) > 64 for name in names):
            self.problems.append(f"a name stands twice, or is longer than 64 characters: {names}")

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def of_kind(self, kind: str) -> list[Statement]:
        return [one for one in self.protocols if one[1] == kind]

    def facts(self, family: int) -> Facts:
        templates = [one for one in self.templates if self.channel(_body(one), family)]
        template = _body(templates[0]) if templates else Block()
        local, listen = self.local(template)
        if len(self.router_id) != 1 or len(templates) > 1:
            self.problem(f"{len(self.router_id)} router ids, {len(templates)} templates of IPv{family}")
        if templates:
            self.demand("the template", ALWAYS_IN_TEMPLATE, template)
            self.demand("the template's channel", ALWAYS_IN_CHANNEL, self.channel(template, family) or Block())
        peers = [self.peer(one, str(templates[0][2]) if templates else "", family) for one in self.of_kind("bgp")
                 if self.channel(_body(one), family) is not None]  # fmt: skip
        exported = f"calico_export{family}"
        return {
            "router_id": self.router_id[0], "listen": listen, "bgp": bool(templates), "local_as": local,
            "debug": self.debug(templates), "direct": self.direct(), "filters": self.filters(family),
            "peers": sorted(peers, key=lambda peer: peer["name"]), "static": self.static(family),
            "kernel": self.kernel(family), **self.exports(exported),
        }  # fmt: skip

    def demand(self, where: str, wanted: set[tuple[str, ...]], body: Block) -> None:
        for one in sorted(wanted - {one for one in body if not any(isinstance(word, Block) for word in one)}):
            self.problem(f"{where} has no {' '.join(one)!r}")

    @staticmethod
    def channel(body: Block, family: int) -> Block | None:
        for one in body:
            if one[0] == f"ipv{family}":
                return one[1] if len(one) > 1 and isinstance(one[1], Block) else Block()
        return None

    def number(self, word: object) -> int:
        return int(self.defined.get(str(word), str(word)))

    def local(self, body: Block) -> tuple[int | None, Facts]:
        as_number, listen = None, Facts(address=None, port=None)
        for one in body:
            if one[0] == "local":
                words = list(one[1:])
                while words:
                    word = words.pop(0)
                    if word == "as":
                        as_number = self.number(words.pop(0))
                    elif word == "port":
                        listen["port"] = int(str(words.pop(0)))
                    else:
                        listen["address"] = str(word)
        if (listen["address"] is not None) != (("strict", "bind", "on") in body):
            self.problem("strict bind and a local address belong together")
        return as_number, listen

    def debug(self, templates: list[Statement]) -> str | None:
        found = set()
        for one in (*self.of_kind("device"), *self.of_kind("direct"), *templates):
            lines = [flat(line[1:]) for line in _body(one) if line[0] == "debug"]
            found.add(lines[0] if lines else None)
        if len(found) != 1:
            self.problem(f"debug is not the same everywhere: {found}")
        return {"all": "all", "{ states }": "states", None: None}[found.pop()]

    def direct(self) -> list[str]:
        body = _body(self.of_kind("direct")[0])
        if ("ipv4",) not in body or ("ipv6",) not in body:
            self.problem("direct lacks a channel")
        words = next(one[1:] for one in body if one[0] == "interface")
        return flat(words).replace("- ", "-").replace('"', "").split(" , ")

    # Filters

    def filters(self, family: int) -> list[Facts]:
        found = []
        for symbol, function in self.functions.items():
            match = FUNCTION.fullmatch(symbol)
            if match and int(match[3]) == family:
                found.append(
                    {
                        "name": self.known.get(match[1], f"none has the function {symbol}"), "direction": match[2],
                        "by_peer_type": "same_as" in function[2:-1],
                        "rules": list(_rules(_body(function))),
                    }
                )  # fmt: skip
        return sorted(found, key=lambda one: (one["name"], one["direction"] == "export"))

    def calls(self, body: Block, family: int, direction: str) -> tuple[list[str], list[str]]:
        """Names of the BGPFilters that are called, in order, and the arguments of calls."""
        names, arguments = [], []
        for one in body:
            match = FUNCTION.fullmatch(str(one[0]))
            if not match:
                continue
            if str(one[0]) not in self.functions or match[2] != direction or int(match[3]) != family:
                self.problem(f"{one[0]} is called as {direction} of IPv{family}")
            names.append(self.known.get(match[1], f"none has the function {one[0]}"))
            given = [str(word) for word in one[2:-1]]
            takes = "same_as" in self.functions.get(str(one[0]), ())
            if takes != bool(given):
                self.problem(f"{flat(one)}: its function takes {'one' if takes else 'no'} argument")
            arguments += given
        return names, arguments

    # Peers

    def peer(self, protocol: Statement, template: str, family: int) -> Facts:
        name, body = str(protocol[2]), _body(protocol)
        if protocol[3:5] != ("from", template):
            self.problem(f"{name} is not from the template of IPv{family}")
        facts: Facts = {
            "name": name, "port": None, "local_as": None, "source": None, "passive": False, "ttl_security": None,
            "multihop": None, "restart_time": None, "keepalive_time": None, "rr_client": False, "rr_cluster_id": None,
            "password": None, "next_hop": None, "allow_local_as": None, "disabled": False,
        }  # fmt: skip
        for one in body:
            if not isinstance(one[-1], Block):
                facts |= self.peer_line(name, one)
        channel = self.channel(body, family) or Block()
        facts |= self.policies(name, channel, family)
        if ipaddress.ip_address(facts["neighbor"]).version != family:
            self.problem(f"{name}: the neighbour is not of its channel's family")
        return facts

    def peer_line(self, name: str, one: Statement) -> Facts:
        words = [str(word) for word in one]
        match words:
            case ["neighbor", address, *rest]:
                port = int(rest[1]) if rest[0] == "port" else None
                return {"neighbor": address, "port": port, "as": self.number(rest[-1])}
            case ["local", "as", number]:
                return {"local_as": self.number(number)}
            case ["source", "address", address]:
                return {"source": address}
            case ["passive", "on"]:
                return {"passive": True}
            case ["disabled", "yes"]:
                return {"disabled": True}
            case ["ttl", "security", word]:
                return {"ttl_security": {"on": True, "off": False}[word]}
            case ["multihop", *hops]:
                return {"multihop": int(hops[0]) if hops else True}
            case ["graceful", "restart", "time", number]:
                return {"restart_time": int(number)}
            case ["keepalive", "time", number]:
                return {"keepalive_time": int(number)}
            case ["hold", "time", _]:
                return {}
            case ["rr", "client"]:
                return {"rr_client": True}
            case ["rr", "cluster", "id", text]:
                return {"rr_cluster_id": text}
            case ["password", text]:
                return {"password": text[1:-1]}
            case ["allow", "local", "as", number]:
                return {"allow_local_as": int(number)}
        self.problem(f"{name}: a line that the judge does not know: {flat(one)}")
        return {}

    def policies(self, name: str, channel: Block, family: int) -> Facts:
        facts: Facts = {"next_hop": None, "import": None, "export": None, "same_as": None}
        arguments: list[str] = []
        for one in channel:
            match one:
                case ("next", "hop", word):
                    facts["next_hop"] = str(word)
                case ("import", "filter", Block() as body):
                    facts["import"], given = self.calls(body, family, "import")
                    arguments += given
                    if flat(body[0]) != f"calico_tunnel{family} ( )" or flat(body[-1]) != "accept":
                        self.problem(f"{name}: import is {flat(one)}")
                    if len(body) != len(facts["import"]) + 2:
                        self.problem(f"{name}: import has more than calls: {flat(one)}")
                case ("export", "filter", Block() as body):
                    facts["export"], given = self.calls(body, family, "export")
                    last = [str(word) for word in body[-1]]
                    if last[:2] != [f"calico_export{family}", "("] or len(body) != len(facts["export"]) + 1:
                        self.problem(f"{name}: export is {flat(one)}")
                    arguments += [*given, *last[2:-1]]
                case _:
                    self.problem(f"{name}: a line that the judge does not know: {flat(one)}")
        if len(set(arguments)) != 1:
            self.problem(f"{name}: the arguments of its filters differ: {arguments}")
        facts["same_as"] = {"true": True, "false": False}.get(arguments[0] if arguments else "")
        return facts

    # Routes

    def static(self, family: int) -> list[Facts]:
        found = []
        for protocol in self.of_kind("static"):
            body = _body(protocol)
            if (f"ipv{family}",) not in body:
                continue
            for one in body:
                match one:
                    case ("route", prefix, "blackhole"):
                        found.append({"net": net(str(prefix)), "via": None})
                    case ("route", prefix, "via", gateway):
                        found.append({"net": net(str(prefix)), "via": str(gateway)})
                    case (word,) if word == f"ipv{family}":
                        pass
                    case _:
                        self.problem(f"static: a line that the judge does not know: {flat(one)}")
        return sorted(found, key=lambda one: one["net"])

    def exports(self, symbol: str) -> Facts:
        """Communities, aggregation and the common part of export filters."""
        facts: Facts = {"communities": [], "aggregation": [], "export": {"reject": [], "accept": []}, "devices": set()}
        tested = False
        for one in _body(self.functions[symbol]):
            text = flat(one)
            if matched := re.fullmatch(r"if \( net ~ (\S+) \) then (accept|reject)", text):
                tested |= matched[2] == "accept"
                if matched[2] == "reject" and (facts["devices"] or tested):
                    self.problem(f"{symbol}: {text} stands too late")
                facts["export"][matched[2]].append(net(matched[1]))
            elif "ifname" in text:
                facts["devices"] |= {(device, "same_as" in text) for device in re.findall(r'"([^"]*)"', text)}
            elif text.startswith("calico_communities") and not tested:
                facts["communities"] = [_community_line(line) for line in _body(self.functions[str(one[0])])]
            elif text.startswith("calico_blocks") and not tested:
                facts["aggregation"] = self.aggregation(_body(self.functions[str(one[0])]))
            elif text != "reject":
                self.problem(f"{symbol}: a line that the judge does not know: {text}")
        if flat(_body(self.functions[symbol])[-1]) != "reject":
            self.problem(f"{symbol} does not end with reject")
        return facts

    def aggregation(self, body: Block) -> list[Facts]:
        lines = [flat(one) for one in body]
        found = []
        for first, second in zip(lines[::2], lines[1::2], strict=True):
            block = first.split()[4]
            if (first, second) != (
                f"if ( net = {block} ) then accept", f"if ( net ~ {block} ) then reject"
            ):  # fmt: skip
                self.problem(f"aggregation is {first}; {second}")
            found.append({"net": net(block)})
        return found

    def kernel(self, family: int) -> Facts:
        protocols = [one for one in self.of_kind("kernel") if self.channel(_body(one), family) is not None]
        if len(protocols) != 1:
            self.problem(f"{len(protocols)} kernel protocols of IPv{family}")
        self.demand("the kernel protocol", ALWAYS_IN_KERNEL, _body(protocols[0]))
        channel = self.channel(_body(protocols[0]), family) or Block()
        if ("import", "all") not in channel:
            self.problem("the kernel protocol does not import all")
        name = next(str(one[2]) for one in channel if one[:2] == ("export", "filter"))
        pools = []
        for one in _body(self.kernel_filters[name])[:-1]:
            text = flat(one)
            if matched := re.fullmatch(r"if \( net ~ (\S+) \) then (accept|reject)", text):
                pools.append({"net": net(matched[1]), "action": matched[2], "tunnel": None})
            elif text != "if ( source ~ [ RTS_DEVICE , RTS_INHERIT ] ) then reject":
                self.problem(f"{name}: a line that the judge does not know: {text}")
        if flat(_body(self.kernel_filters[name])[-1]) != "accept":
            self.problem(f"{name} does not end with accept")
        tunnels = self.tunnels(family)
        return {"reject": [], "pools": [pool | tunnels.get(str(pool["net"]), {}) for pool in pools]}

    def tunnels(self, family: int) -> dict[str, Facts]:
        """What the import filters' first call makes of the routes of a pool."""
        found = {}
        for one in _body(self.functions[f"calico_tunnel{family}"]):
            matched = re.fullmatch(
                r"if \( net ~ (\S+)(?: && ! \( bgp_next_hop ~ (\S+) \))? \) then "
                r'\{ onlink = true; ifname = "(\w+)"; gw = bgp_next_hop \}', flat(one),
            )  # fmt: skip
            if not matched:
                self.problem(f"a line that the judge does not know: {flat(one)}")
                continue
            found[net(matched[1])] = {"tunnel": matched[3]}
            if matched[2]:
                found[net(matched[1])]["unless_next_hop_in"] = net(matched[2])
        return found


def _body(statement: Statement) -> Block:
    body = statement[-1]
    assert isinstance(body, Block), statement
    return body


def _stems(name: str) -> Iterator[str]:
    """What may stand for a name in the functions of its filter (spec/bgp.md 4.6, 12.4)."""
    yield name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16].upper()
    yield re.sub(r"[^A-Za-z0-9_.-]", "_", name[:28]) + "_" + digest


def _community_line(one: Statement) -> Facts:
    matched = re.fullmatch(r"if \( net ~ (\S+) \) then \{ (.*) \}", flat(one))
    if not matched:
        raise ValueError(f"communities: a line that the judge does not know: {flat(one)}")
    return {"net": net(matched[1]), "add": sorted(_added(text) for text in matched[2].split("; "))}


def _added(text: str) -> str:
    matched = re.fullmatch(r"bgp_(large_)?community\.add \( \( ([0-9 ,]+) \) \)", text)
    numbers = matched[2].split(" , ") if matched else []
    if not matched or len(numbers) != (3 if matched[1] else 2):
        raise ValueError(f"this adds no community: {text}")
    return ":".join(numbers)


def _rules(body: Block) -> Iterator[Facts]:
    """The rules of a BGPFilter's function; one without conditions may be several statements."""
    waiting: list[str] = []
    for one in body:
        waiting.append(flat(one))
        if one[0] in ("if", "accept", "reject"):
            yield _rule("; ".join(waiting))
            waiting = []
    if waiting:
        raise ValueError(f"rules that end without an action: {waiting}")


def _rule(text: str) -> Facts:
    matched = re.fullmatch(r"if \( (.*) \) then \{ (.*) \}", text)
    conditions = _conditions(matched[1]) if matched else {}
    statements = (matched[2] if matched else text).split("; ")
    facts = {"action": statements[-1], **conditions}
    if statements[-1] not in ("accept", "reject"):
        raise ValueError(f"a rule without an action: {text}")
    operations = [_operation(statement) for statement in statements[:-1]]
    return facts | ({"operations": operations} if operations else {})


CONDITIONS = (
    (re.compile(r"net (=|!=|~|!~) ([0-9a-f.:]+/\d+)"), lambda m: {"net": [m[1], net(m[2])]}),
    (re.compile(r"net (~|!~) \[ (\S+)\{(\d+),(\d+)\} \]"), lambda m: {"net": [m[1], net(m[2]), int(m[3]), int(m[4])]}),
    (re.compile("same_as"), lambda _: {"peer": "iBGP"}),
    (re.compile("! same_as"), lambda _: {"peer": "eBGP"}),
    (re.compile(r"defined \( source \) && \( source ~ \[ RTS_BGP \] \)"), lambda _: {"source": "BGP"}),
    (re.compile(r'defined \( ifname \) && \( ifname ~ "([^"]*)" \)'), lambda m: {"interface": m[1]}),
    (re.compile(r"\( (\d+) , (\d+) \) ~ bgp_community"), lambda m: {"community": ":".join(m.groups())}),
    (re.compile(r"\( (\d+) , (\d+) , (\d+) \) ~ bgp_large_community"), lambda m: {"community": ":".join(m.groups())}),
    (re.compile(r"bgp_path ~ \[ = ((?:\d+ )+)\* = \]"), lambda m: {"as_path_prefix": m[1].split()}),
    (re.compile(r"defined \( bgp_local_pref \) && \( bgp_local_pref = (\d+) \)"), lambda m: {"local_pref": int(m[1])}),
)


def _conditions(text: str) -> Facts:
    facts: Facts = {}
    for condition in _conjuncts(text):
        for form, fact in CONDITIONS:
            if matched := form.fullmatch(condition):
                facts |= fact(matched)
                break
        else:
            raise ValueError(f"a condition that the judge does not know: {condition}")
    return facts


def _conjuncts(text: str) -> Iterator[str]:
    """The terms, without their brackets, that stand between the outermost `&&`."""
    depth, term = 0, list[str]()
    for word in [*text.split(), "&&"]:
        if word == "&&" and depth == 0:
            if term[0] != "(" or term[-1] != ")":
                raise ValueError(f"a condition without brackets: {term}")
            yield " ".join(term[1:-1])
            term = []
            continue
        depth += {"(": 1, ")": -1}.get(word, 0)
        term.append(word)


def _operation(text: str) -> Facts:
    if matched := re.fullmatch(r"bgp_path\.prepend \( (\d+) \)", text):
        return {"prepend": matched[1]}
    if matched := re.fullmatch(r"bgp_local_pref = (\d+)", text):
        return {"local_pref": int(matched[1])}
    return {"add": _added(text)}
