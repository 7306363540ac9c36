"""Random resources and packets: small vocabularies, so that rules, sets and packets meet often."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

from libcalico.policy.ir import Direction, Packet

NODE = "here"
INTERFACE = "calia"
LABELS = {"a": ("1", "2"), "b": ("1", "2"), "c": ("1", "2")}
WORDS = {"TCP": 6, "UDP": 17, "SCTP": 132, "UDPLite": 136, "ICMP": 1, "ICMPv6": 58}
WITH_PORTS = ("TCP", "UDP", "SCTP", "UDPLite")
WITH_NAMED_PORTS = ("TCP", "UDP", "SCTP")
OTHER_PROTOCOLS = (89, 253)
PORTS = (1, 79, 80, 81, 443, 1000, 65535)
NAMED = ("web", "dns", "db", "api")
ICMP_TYPES = {4: (0, 8, 13), 6: (128, 129)}
"""Types that conntrack takes for new when they are requests (8, 13, 128); the others it calls invalid."""
REQUESTS = (8, 13, 128)
SELECTORS = (
    "all()", "a == '1'", "a != '1'", "has(b)", "!has(b)", "b in {'1'}", "a == '1' && b == '2'",
    "c == '1' || a == '2'", "c not in {'2'}", "set == 'x'", "a starts with '1'", "nothing == 'x'",
)  # fmt: skip


def own(index: int, family: int) -> str:
    """Addresses of the tested endpoint."""
    return f"10.1.0.{index}" if family == 4 else f"fd00:1::{index:x}"


def peer(index: int, family: int) -> str:
    """Addresses of everybody else."""
    return f"10.2.0.{index}" if family == 4 else f"fd00:2::{index:x}"


class World:
    """Resources of one round, as (kind, namespace, name, resource), and packets that may meet them."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.resources: list[dict[str, Any]] = []
        self._endpoints()
        self._sets()
        self._policies()

    def _add(self, kind: str, name: str, spec: dict[str, Any], namespace: str = "", **metadata: Any) -> None:
        self.resources.append(
            {"kind": kind, "metadata": {"name": name, "namespace": namespace, **metadata}, "spec": spec}
        )

    def _labels(self) -> dict[str, str]:
        return {key: self.dice.choice(values) for key, values in LABELS.items() if self.dice.random() < 0.6}

    def _endpoints(self) -> None:
        for index in range(8):
            local = index == 0
            address = own if local else peer
            numbers = range(2, 8) if local else (index,)
            self._add(
                "WorkloadEndpoint", f"{NODE if local else 'there'}-cni-w{index}-eth0",
                {
                    "node": NODE if local else "there", "orchestrator": "cni", "containerID": f"w{index}",
                    "endpoint": "eth0", "interfaceName": INTERFACE if local else f"cali{index}",
                    "profiles": ["p"] if self.dice.random() < 0.7 else [],
                    "ipNetworks": [f"{address(n, f)}/{32 if f == 4 else 128}" for n in numbers for f in (4, 6)],
                    "ports": [
                        {"name": name, "protocol": self.dice.choice(WITH_NAMED_PORTS), "port": self.dice.choice(PORTS)}
                        for name in self.dice.sample(NAMED, 3)
                    ],
                },
                "default", labels=self._labels(),
            )  # fmt: skip

    def _sets(self) -> None:
        for number in range(2):
            nets = [self._net(self.dice.choice((4, 6))) for _ in range(self.dice.randrange(4))]
            self._add("GlobalNetworkSet", f"s{number}", {"nets": nets}, labels={**self._labels(), "set": "x"})

    def _net(self, family: int) -> str:
        address = self.dice.choice((own, peer))(self.dice.randrange(1, 16), family)
        longest = 32 if family == 4 else 128
        length = self.dice.choice((longest, longest, longest - 1, longest - 2, longest - 3, 8, 0))
        return str(ipaddress.ip_network(f"{address}/{length}", strict=False))

    def _policies(self) -> None:
        tiers = ["default", *[f"t{n}" for n in range(self.dice.randrange(3))]]
        for name in tiers[1:]:
            action = self.dice.choice(["Deny", "Pass"])
            self._add("Tier", name, {"order": self.dice.randrange(100), "defaultAction": action})
        self._add("Tier", "default", {"order": 1_000_000, "defaultAction": "Deny"})
        for number in range(self.dice.randrange(1, 6)):
            tier = self.dice.choice(tiers)
            namespaced = self.dice.random() < 0.3
            spec = {
                "tier": tier, "order": self.dice.choice([None, 1, 2]), "selector": self.dice.choice(SELECTORS[:4]),
                "types": self.dice.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
                "ingress": self._rules(tier), "egress": self._rules(tier),
            }  # fmt: skip
            kind = "NetworkPolicy" if namespaced else "GlobalNetworkPolicy"
            self._add(kind, f"{tier}.p{number}", spec, "default" if namespaced else "")
        self._add("Profile", "p", {"ingress": self._rules(""), "egress": self._rules("")})

    def _rules(self, tier: str) -> list[dict[str, Any]]:
        return [self._rule(bool(tier)) for _ in range(self.dice.randrange(5))]

    def _rule(self, may_pass: bool) -> dict[str, Any]:
        dice = self.dice
        rule: dict[str, Any] = {
            "action": dice.choice(["Allow", "Allow", "Allow", "Deny", "Log", "Pass" if may_pass else "Deny"])
        }
        protocol = dice.choice([None, None, None, None, *WORDS, *OTHER_PROTOCOLS])
        if protocol is not None:
            rule["protocol"] = protocol
        elif dice.random() < 0.3:
            rule["notProtocol"] = dice.choice([*WORDS, *OTHER_PROTOCOLS])
        elif dice.random() < 0.1:
            rule["notICMP"] = {"type": dice.choice((8, 128))}
        if protocol in ("ICMP", "ICMPv6") and dice.random() < 0.6:
            word = dice.choice(["icmp", "notICMP"])
            rule[word] = {"type": dice.choice(ICMP_TYPES[4 if protocol == "ICMP" else 6])}
            if dice.random() < 0.4:
                rule[word]["code"] = dice.choice((0, 1))
        if protocol not in ("ICMP", "ICMPv6") and dice.random() < 0.2:
            rule["ipVersion"] = dice.choice((4, 6))
        family = {"ICMP": 4, "ICMPv6": 6}.get(str(protocol), rule.get("ipVersion", dice.choice((4, 6))))
        rule["source"] = self._side(protocol, family)
        rule["destination"] = self._side(protocol, family)
        return rule

    def _side(self, protocol: Any, family: int) -> dict[str, Any]:
        dice = self.dice
        side: dict[str, Any] = {}
        if dice.random() < 0.25:
            side["nets"] = [self._net(family) for _ in range(dice.randrange(1, 4))]
        if dice.random() < 0.15:
            side["notNets"] = [self._net(family) for _ in range(dice.randrange(1, 3))]
        if dice.random() < 0.3:
            side["selector"] = dice.choice(SELECTORS)
        if dice.random() < 0.1:
            side["notSelector"] = dice.choice(SELECTORS)
        if protocol in WITH_PORTS:
            named = protocol in WITH_NAMED_PORTS
            for word, chance in (("ports", 0.35), ("notPorts", 0.25)):
                if dice.random() < chance:
                    side[word] = [self._port(named) for _ in range(dice.randrange(1, 4))]
        elif protocol is None and dice.random() < 0.2:
            side[dice.choice(("ports", "notPorts"))] = dice.sample(NAMED, dice.randrange(1, 4))
        return side

    def _port(self, named: bool) -> int | str:
        if named and self.dice.random() < 0.4:
            return self.dice.choice(NAMED)
        first, last = sorted(self.dice.choices(PORTS, k=2))
        return first if self.dice.random() < 0.5 else f"{first}:{last}"

    def packet(self, direction: Direction) -> Packet:
        """From or to the tested endpoint. The two directions have addresses of their own, so that a packet is never
        the answer to an earlier one, which conntrack would accept as established."""
        dice = self.dice
        family = dice.choice((4, 6))
        egress = direction is Direction.EGRESS
        mine = own(dice.choice((2, 4, 6) if egress else (3, 5, 7)), family)
        other = peer(dice.randrange(1, 12), family)
        source, destination = (mine, other) if egress else (other, mine)
        word = dice.choice([*WORDS, *OTHER_PROTOCOLS, "TCP", "UDP"])
        packet = Packet(
            family, WORDS.get(str(word), word if isinstance(word, int) else 0),
            int(ipaddress.ip_address(source)), int(ipaddress.ip_address(destination)),
        )  # fmt: skip
        if word in WITH_PORTS:
            return packet._replace(source_port=dice.choice(PORTS), destination_port=dice.choice(PORTS))
        if word in ("ICMP", "ICMPv6"):
            kinds = [kind for kind in ICMP_TYPES[family] if kind in REQUESTS]
            return packet._replace(
                protocol=1 if family == 4 else 58, icmp_type=dice.choice(kinds), icmp_code=dice.choice((0, 1))
            )
        return packet
