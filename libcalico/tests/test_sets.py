"""Members of sets against a model that counts them one by one."""

from __future__ import annotations

import random

from libcalico.calc.messages import IPSet, IPSetDelta, Member, PortMember
from libcalico.calc.sets import Contribution, SetMembers
from libcalico.net import Cidr
from libcalico.policy.compile import SetSpec
from libcalico.selector import parse

POOL = [Cidr(4, 0x0A000000 + n, 32) for n in range(6)] + [Cidr(6, n << 64, 64) for n in range(3)]
PORTS = [("web", 6, 80), ("www", 6, 80), ("dns", 17, 53)]
PLAIN = SetSpec("s:a", parse("a == '1'"))
NAMED = SetSpec("n:a", parse("a == '1'"), frozenset({(6, "web"), (6, "www")}))


def wanted(items: dict[str, tuple[str, Contribution]]) -> dict[str, set[Member]]:
    """What each set holds."""
    found: dict[str, set[Member]] = {PLAIN.id: set(), NAMED.id: set()}
    for label, what in items.values():
        if label == "1":
            found[PLAIN.id] |= set(what.nets)
            ports = {port[1:] for port in what.ports if port[1] == 6}
            found[NAMED.id] |= {PortMember(net.family, net.number, *port) for net in what.nets for port in ports}
    return found


def test_members_that_items_share_stay_until_the_last_of_them_goes() -> None:
    for seed in range(60):
        dice = random.Random(seed)
        sets = SetMembers()
        items: dict[str, tuple[str, Contribution]] = {}
        known: dict[str, set[Member]] = {}
        for step in range(60):
            if step == 10:
                sets.use(PLAIN)
                sets.use(NAMED)
            name = dice.choice("abcd")
            if dice.random() < 0.2:
                items.pop(name, None)
                sets.remove_item(name)
            else:
                nets = dice.choices(POOL, k=dice.randrange(5))  # an item may name one twice
                ports = tuple(dice.sample(PORTS, dice.randrange(4)))
                what = Contribution(dice.choice((tuple, frozenset))(nets), ports)
                items[name] = (dice.choice("112"), what)
                sets.update_item(name, {"a": items[name][0]}, (), what)
            if dice.random() < 0.4:
                continue
            for set_id, change in sets.flush().items():
                if isinstance(change, IPSetDelta):
                    assert change.added or change.removed
                    assert not change.added & known[set_id] and change.removed <= known[set_id]
                    known[set_id] = known[set_id] - change.removed | change.added
                elif isinstance(change, IPSet):
                    assert set_id not in known
                    known[set_id] = set(change.members)
            if step >= 10:
                assert known == wanted(items), f"seed {seed}, step {step}"
        sets.release(PLAIN.id)
        sets.release(NAMED.id)
        assert sets.flush() == {PLAIN.id: None, NAMED.id: None}
