"""A megabyte of text, made to be slow to read, is read or refused in bounded time wherever text comes in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from calico_felix.foreign import FOREIGN
from calico_felix.parameters import PARAMETERS
from calicoctl.output.documents import to_yaml
from libcalico import durations, selector
from libcalico.client import connection
from libcalico.cni import labels as mesos_labels
from libcalico.cni import request
from libcalico.config import Configuration
from libcalico.errors import CalicoError
from libcalico.manifest import yaml_input
from libcalico.model import codec, go_regex, scalars
from libcalico.model.felix_fields import FIELDS
from libcalico.model.keys import ResourceKey, parse_path
from libcalico.model.validation.objects import validate
from libcalico.policy.ir import Action, Direction, Policy, PolicyId, Rule
from libcalico.policy.nft.rules import NftOptions, render_rule
from libcalico.workload import labels, names

OCTETS = 1_000_000
LIMIT_S = 10.0
PRINTED = 200_000
"""Characters that are printed, which takes Python's own code 7 s a megabyte: with their square it would be minutes."""
PIECES = ("-", "a-", "9.", "ms", "[[:", "a=,", "\x1b")
TEXTS = {piece: piece * (OCTETS // len(piece.encode())) for piece in PIECES}


def felix(text: str) -> None:
    """Members of a FelixConfiguration, one for each form of text that is looked at with a regular expression."""
    for field in {field.form: field for field in FIELDS.values()}.values():
        if field.form and field.type in ("string", "object", "map"):
            _felix_member(field.name, {text: text} if field.type == "map" else text)
    _felix_member("bpfConntrackTimeouts", {"tcpSynSent": text})


def _felix_member(name: str, value: Any) -> None:
    document = {"kind": "FelixConfiguration", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "a"}}
    validate(codec.from_input({**document, "spec": {name: value}}))


def settings(text: str) -> None:
    """Every parameter of the agent, and a name that is none."""
    for row in PARAMETERS:
        try:
            row.read(text)
        except ValueError:
            pass
    configuration = Configuration(PARAMETERS, FOREIGN)
    configuration.load_environment({f"FELIX_{text}": text, "FELIX_HEALTHHOST": text}, "FELIX_")
    configuration.resolve()


def log_prefix(text: str) -> None:
    identity = PolicyId("NetworkPolicy", text, text)
    policy = Policy(identity, text, (), ())
    render_rule(Rule(Action.LOG, 0), policy, Direction.INGRESS, NftOptions(log_prefix=text), {})


def resource(text: str) -> None:
    """A stored object whose every text is this one."""
    metadata = {"name": text, "namespace": text, "labels": {text: text}, "annotations": {text: text}}
    specs: dict[str, dict[str, Any]] = {
        "NetworkPolicy": {"selector": text, "tier": text, "ingress": [{"action": text, "protocol": text}]},
        "GlobalNetworkSet": {"nets": [text]},
        "WorkloadEndpoint": {
            "node": text, "workload": text, "containerID": text, "interfaceName": text, "mac": text,
            "ipNetworks": [text], "ports": [{"name": text, "protocol": text, "port": 1}],
        },
        "IPPool": {"cidr": text, "nodeSelector": text},
        "Node": {"bgp": {"ipv4Address": text}},
        "Tier": {},
    }  # fmt: skip
    for kind, spec in specs.items():
        value = {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec}
        try:
            validate(codec.decode(ResourceKey(kind, text, text), json.dumps(value).encode()))
        except CalicoError:
            pass


def cni(text: str) -> None:
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": text,
        "CNI_IFNAME": text,
        "CNI_NETNS": text,
        "CNI_ARGS": text,
    }
    conf = {"name": text, "cniVersion": text, "type": "calico"}
    request.parse_request(request.CniRequestData("calico", environment, json.dumps(conf).encode()))


ENTRIES: dict[str, Callable[[str], object]] = {
    "labels of a task": lambda text: mesos_labels.read([(text, text)]),
    "label key": labels.sanitise,
    "label value": labels.compress,
    "CNI call": cni,
    "CNI_ARGS": request.parse_arguments,
    "interface": names.endpoint_segment,
    "namespace": names.legal_namespace,
    "object": resource,
    "FelixConfiguration": felix,
    "settings": settings,
    "log prefix": log_prefix,
    "regular expression": go_regex.is_go_regex,
    "regular expression's class": lambda text: go_regex.is_go_regex(f"[{text}"),
    "duration": durations.parse_duration,
    "port": scalars.canonical_port,
    "net": scalars.parse_net,
    "selector": selector.parse,
    "selector's text": lambda text: selector.parse(f"a == '{text}'"),
    "key": parse_path,
    "YAML": yaml_input.load_objects,
    "YAML value": lambda text: yaml_input.load_objects(f"kind: {text}"),
    "printed YAML": lambda text: to_yaml({text[:PRINTED]: [text[:PRINTED]]}),
}  # fmt: skip


@pytest.mark.parametrize("piece", PIECES, ids=repr)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_megabyte_is_read_in_bounded_time(entry: str, piece: str) -> None:
    started = time.process_time()
    try:
        ENTRIES[entry](TEXTS[piece])
    except (CalicoError, ValueError, RecursionError):
        pass
    assert time.process_time() - started < LIMIT_S


def test_a_configuration_file_is_read_in_bounded_time(tmp_path: Any) -> None:
    for piece, text in TEXTS.items():
        path = tmp_path / "felix.cfg"
        path.write_text(f"{text} = {text}\n{text}\nHealthHost = {text}\n")
        configuration = Configuration(PARAMETERS, FOREIGN)
        started = time.process_time()
        try:
            configuration.load_file(str(path))
            configuration.resolve()
        except CalicoError:
            pass
        path.write_text(f"apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec:\n  etcdEndpoints: '{piece}'\n")
        try:
            connection.load(str(path), {"ETCD_ENDPOINTS": text, "CALICO_ETCD_USERNAME": text})
        except CalicoError:
            pass
        assert time.process_time() - started < LIMIT_S, piece
