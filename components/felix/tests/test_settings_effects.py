"""Every parameter has an effect, and what has none says so.

A row of the table is shown to act by what is different with it: the rules, the interface and route settings, what is
served and logged, how etcd is asked. Where that needs a kernel or a datastore, the test that shows it is named.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from calico_felix.configuration import AgentConfiguration, settle_etcd
from calico_felix.foreign import FOREIGN, SELECTOR, datastore_names
from calico_felix.parameters import PARAMETERS, dataplane_config, programmed
from libcalico.calc.graph import Graph
from libcalico.calc.settings import strange_members
from libcalico.config import Configuration
from libcalico.errors import BadData
from libcalico.model.felix_fields import FIELDS, RENAMED, parameter_name
from libcalico.policy.ir import Action, Direction, EndpointPolicy, Policy, PolicyId, Rule
from libcalico.policy.nft.base import base_table
from libcalico.policy.nft.rules import endpoint_chains, render_policy

POLICY = Policy(
    PolicyId("NetworkPolicy", "default", "a"), "default", tuple(Rule(a, n) for n, a in enumerate(Action)), ()
)


def in_datastore(**settings: str) -> AgentConfiguration:
    made = AgentConfiguration()
    made.load_datastore(datastore_names(settings))
    made.resolve()
    return made


def rules(configuration: Configuration) -> str:
    """The rules that do not depend on what is in the datastore, a policy's and an endpoint's."""
    options = dataplane_config(configuration, "here").nft._replace(vxlan_families=frozenset((4, 6)))
    endpoint = EndpointPolicy((), ())
    chains = endpoint_chains("cali1", endpoint, Direction.EGRESS, {}, options)
    return f"{base_table(options).chains}{render_policy(POLICY, options)}{chains}"


IN_RULES = {
    "LogPrefix": "other",
    "LogActionRateLimit": "10/second",
    "InterfacePrefix": "tap",
    "DefaultEndpointToHostAction": "Accept",
    "NftablesFilterDenyAction": "Reject",
    "NftablesMarkMask": "0xff00",
    "DisableConntrackInvalidCheck": "true",
    "AllowVXLANPacketsFromWorkloads": "true",
    "AllowIPIPPacketsFromWorkloads": "true",
    "VXLANPort": "4790",
    "NATPortRange": "1024:2048",
}


@pytest.mark.parametrize(("name", "value"), IN_RULES.items())
def test_it_is_seen_in_the_rules(name: str, value: str) -> None:
    made = in_datastore(**{name: value})
    assert made.values[name].source == "datastore" and not made.warnings
    assert rules(made) != rules(in_datastore())


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("", {"vxlan", "ipip"}),
        ("EnabledIPIPOnly", {"vxlan", "ipip"}),
        ("EnabledNoEncapOnly", {"vxlan", "plain"}),
        ("Enabled", {"vxlan", "ipip", "plain"}),
        ("Disabled", {"vxlan"}),
    ],
)
def test_whose_routes_the_agent_writes(value: str, wanted: set[str]) -> None:
    made = in_datastore(**({"ProgramClusterRoutes": value} if value else {}))
    assert programmed(made) == wanted
    assert dataplane_config(made, "here").program_ipip == ("ipip" in wanted)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("IpInIpMtu", "551", "is below 552 (0 takes it from the underlay)"),
        ("ProgramClusterRoutes", "EnabledIPIP", "(did you mean enabledipiponly?)"),
        ("VXLANMTU", "551", "is below 552 (0 takes it from the underlay)"),
        ("VXLANMTUV6", "1279", "is below 1280 (0 takes it from the underlay)"),
        ("VXLANMTU", "65536", "is not between 0 and 65535"),
        ("VXLANVNI", "0", "is not between 1 and 16777215"),
        ("VXLANVNI", "16777216", "is not between 1 and 16777215"),
        ("VXLANPort", "0", "is not between 1 and 65535"),
        ("VXLANPort", "65536", "is not between 1 and 65535"),
    ],
)  # fmt: skip
def test_a_tunnel_s_setting_that_cannot_be_is_named_and_the_default_counts(name: str, value: str, why: str) -> None:
    made = in_datastore(**{name: value})
    (warning,) = made.warnings
    assert name in warning and f"'{value}'" in warning and why in warning
    assert made[name] == AgentConfiguration()[name]


def test_another_kind_of_datastore_is_refused() -> None:
    made = AgentConfiguration()
    made.load_environment({"FELIX_DATASTORETYPE": "kubernetes"}, "FELIX_")
    with pytest.raises(BadData, match="DatastoreType from the environment: 'kubernetes' is not one of etcdv3"):
        made.resolve()


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    made = AgentConfiguration()
    made.load_environment({"FELIX_ETCDCERTFILE": str(tmp_path / "cert")}, "FELIX_")
    made.resolve()
    with pytest.raises(BadData):
        settle_etcd(made, {})


@pytest.mark.parametrize("member", [name for name in FIELDS if name != SELECTOR])
def test_every_member_of_a_felixconfiguration_acts_or_says_that_it_does_not(member: str) -> None:
    """Of those that are not in the table, whatever the value is that asks for something."""
    name = parameter_name(member).lower()
    if name in {row.name.lower() for row in PARAMETERS}:
        return
    (warning,) = in_datastore(**{member: "something"}).warnings
    assert name in warning.lower() and "not supported here: 'something' has no effect" in warning


def test_upstreams_other_parameters_say_so_in_a_file_as_well(tmp_path: Path) -> None:
    for one in FOREIGN:
        (tmp_path / "felix.cfg").write_text(f"[global]\n\n{one.name} = something\n")
        made = AgentConfiguration()
        made.load_file(str(tmp_path / "felix.cfg"))
        made.resolve()
        if "*" in one.already:
            assert not made.warnings, "upstream accepts it silently too"
        else:
            (warning,) = made.warnings
            assert warning.startswith(f"parameter {one.name} from the file") and "felix.cfg, line 3" in warning


def test_upstreams_parameters_are_all_known() -> None:
    """218 of them; and this agent's own."""
    former = {one.name for one in FOREIGN if "*" in one.already}
    own = {"NodeSocket", "MTUFile", "StateDirectory"}
    names = {row.name.lower() for row in PARAMETERS} | {one.name.lower() for one in FOREIGN}
    assert len(names) == 218 + len(former) + len(own)
    assert set(RENAMED) <= set(FIELDS)


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        (b'{"spec":{"healthEnabeld":true}}', "spec.healthEnabeld is no setting (did you mean healthEnabled?)"),
        (b'{"Spec":{"a":1,"zz":2}}', "spec.a is no setting, nor are 1 more"),
        (b'{"spec":{"HEALTHENABLED":true}}', ""),
        (b"{}", ""),
        (b'{"spec":null}', ""),
    ],
)
def test_a_member_that_nobody_knows_is_named(stored: bytes, problem: str) -> None:
    assert strange_members(stored) == problem


def test_the_object_stands_in_problems_and_counts_all_the_same() -> None:
    graph = Graph("here")
    key = b"/calico/resources/v3/projectcalico.org/felixconfigurations/default"
    graph.update(key, b'{"spec":{"healthEnabeld":true,"healthPort":1}}', 1)
    assert list(graph.problems.values()) == ["spec.healthEnabeld is no setting (did you mean healthEnabled?)"]
    graph.in_sync = True
    flush = graph.flush()
    assert flush is not None and flush.configuration == {"healthPort": "1"}
    graph.update(key, b'{"spec":{"healthEnabled":true}}', 2)
    assert not graph.problems
