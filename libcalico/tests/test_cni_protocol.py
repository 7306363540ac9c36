"""The pure parts of the CNI protocol: environment, stdin, configuration, labels, results."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcalico.cni import labels, result, versions
from libcalico.cni.conf import read_conf
from libcalico.cni.errors import CniError
from libcalico.cni.request import CniRequestData, parse_arguments, parse_request
from libcalico.cni.result import Addresses, Interfaces
from libcalico.errors import ValidationError
from libcalico.workload import endpoint, name_errors
from libcalico.workload.labels import compress, sanitise
from libcalico.workload.names import endpoint_segment, legal_namespace
from libcalico.workload.request import Attachment, Identity

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "5f0c9e11-2b7a",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni",
}
CONF = {"name": "calico", "type": "calico", "cniVersion": "0.1.0", "ipam": {"type": "calico-ipam"}}


def refusal(stdin: Any = None, **environment: str | None) -> CniError:
    merged = {key: value for key, value in {**ENVIRONMENT, **environment}.items() if value is not None}
    data = stdin if isinstance(stdin, bytes) else json.dumps(CONF if stdin is None else stdin).encode()
    with pytest.raises(CniError) as caught:
        parse_request(CniRequestData("calico", merged, data))
    return caught.value


@pytest.mark.parametrize(
    ("environment", "code", "message", "details"),
    [
        ({"CNI_NETNS": None, "CNI_PATH": None}, 4, "required env variables [CNI_NETNS,CNI_PATH] missing", ""),
        ({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": None}, 4, "required env variables [CNI_CONTAINERID] missing", ""),
        ({"CNI_COMMAND": "NOPE"}, 4, "unknown CNI_COMMAND: NOPE", ""),
        ({"CNI_CONTAINERID": "-bad"}, 4, "invalid characters in containerID", "-bad"),
        ({"CNI_CONTAINERID": "a\n"}, 4, "invalid characters in containerID", "a\n"),
        ({"CNI_IFNAME": "x" * 16}, 4, "interface name is too long", "interface name should be less than 16 characters"),
        ({"CNI_IFNAME": "a/b"}, 4, "interface name contains / or : or whitespace characters", ""),
        ({"CNI_IFNAME": ".."}, 4, "interface name is . or ..", ""),
    ],
)
def test_a_bad_environment(environment: dict[str, str | None], code: int, message: str, details: str) -> None:
    found = refusal(**environment)
    assert (found.code, found.message, found.details) == (code, message, details)


@pytest.mark.parametrize(
    ("stdin", "code", "message"),
    [
        (b"", 6, "error unmarshall network config: unexpected end of JSON input"),
        (b'{"name": ', 6, "error unmarshall network config: unexpected end of JSON input"),
        (b"[1]", 6, "error unmarshall network config: json: cannot unmarshal array into an object"),
        (b"\xff\xfe", 6, "error unmarshall network config:"),
        (b"[" * 100_000, 6, "error unmarshall network config:"),
        ({"type": "calico"}, 7, "missing network name"),
        ({"name": 5}, 6, "error unmarshall network config: name is number, wanted string"),
        ({"name": "-x"}, 7, "invalid characters found in network name"),
        ({"name": "x", "cniVersion": "9.9.9"}, 1, "incompatible CNI versions"),
        ({"name": "x", "cniVersion": "one"}, 1, "incompatible CNI versions"),
    ],
)
def test_a_bad_stdin(stdin: Any, code: int, message: str) -> None:
    found = refusal(stdin)
    assert found.code == code
    assert found.message.startswith(message)


@pytest.mark.parametrize(
    ("command", "version", "message"),
    [
        ("CHECK", "0.3.1", "config version does not allow CHECK"),
        ("GC", "1.0.0", "config version does not allow GC"),
        ("STATUS", "1.0.0", "config version does not allow STATUS"),
        ("CHECK", "1.2.0", "plugin version does not allow CHECK"),
    ],
)
def test_verbs_need_their_version(command: str, version: str, message: str) -> None:
    assert refusal({**CONF, "cniVersion": version}, CNI_COMMAND=command).message == message


@given(st.binary(max_size=200))
def test_stdin_of_any_bytes_is_a_call_or_a_refusal(stdin: bytes) -> None:
    try:
        parse_request(CniRequestData("calico", ENVIRONMENT, stdin))
    except CniError as error:
        json.dumps(error.to_object())


def test_arguments() -> None:
    assert parse_arguments("") == {}
    assert parse_arguments("IgnoreUnknown=1;IP=1.2.3.4;IP=1.2.3.5;X=") == {
        "IgnoreUnknown": "1",
        "IP": "1.2.3.5",
        "X": "",
    }
    for bad in ("IP", "IP=a=b", "IP=1;;"):
        with pytest.raises(CniError, match="ARGS: invalid pair"):
            parse_arguments(bad)


MESOS = "args.org.apache.mesos.network_info"


def mesos(info: Any) -> dict[str, Any]:
    return {"args": {"org.apache.mesos": {"network_info": info}}}


class TestConf:
    def test_defaults(self) -> None:
        conf, notes = read_conf(CONF)
        assert (conf.mtu, conf.num_queues, conf.want_v4, conf.want_v6, conf.ipam_type) == (
            0,
            1,
            True,
            False,
            "calico-ipam",
        )
        assert conf.nodename_file == "/var/lib/calico/nodename"
        assert notes == ()

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"mtu": "1500"}, "mtu is '1500', wanted integer"),
            ({"mtu": True}, "mtu is true, wanted integer"),
            ({"mtu": 10**30}, f"mtu is {10**30}, wanted integer"),
            ({"ipam": {"type": "calico-ipam", "ipv4_pools": "x"}}, "ipam.ipv4_pools is 'x', wanted array"),
            ({"ipam": {"type": "calico-ipam", "ipv4_pools": [1]}}, "ipam.ipv4_pools[0] is 1, wanted string"),
            ({"etcd_endpoints": ["x"]}, 'etcd_endpoints is ["x"], wanted string'),
            ({"ipam": "calico-ipam"}, "ipam is 'calico-ipam', wanted object"),
            ({"policy": ["k8s"]}, 'policy is ["k8s"], wanted object'),
            ({"dns": {"search": "x"}}, "dns.search is 'x', wanted array"),
            ({"args": []}, "args is [], wanted object"),
            ({"args": {"cni": {"ips": "10.0.0.1"}}}, "args.cni.ips is '10.0.0.1', wanted array"),
            ({"args": {"cni": {"labels": {"a": "b"}}}}, 'args.cni.labels is {"a": "b"}, wanted array'),
            (mesos({"ip_addresses": [{"ip_address": 5}]}), f"{MESOS}.ip_addresses[0].ip_address is 5, wanted string"),
            (mesos({"ip_addresses": "10.0.0.1"}), f"{MESOS}.ip_addresses is '10.0.0.1', wanted array"),
            (mesos({"labels": []}), f"{MESOS}.labels is [], wanted object"),
            (mesos({"labels": {"labels": ["x"]}}), f"{MESOS}.labels.labels[0] is 'x', wanted object"),
            (mesos({"labels": {"labels": [{"key": 1}]}}), f"{MESOS}.labels.labels[0].key is 1, wanted string"),
            (mesos("x" * 300), f"{MESOS} is '{'x' * 199}..., wanted object"),
        ],
    )
    def test_a_wrong_type_is_an_error_for_add_and_a_note_for_del(self, change: dict[str, Any], text: str) -> None:
        with pytest.raises(CniError) as caught:
            read_conf({**CONF, **change})
        assert (caught.value.code, caught.value.message) == (6, f"failed to load netconf: {text}")
        _, notes = read_conf({**CONF, **change}, lenient=True)
        assert notes == (f"{text}: ignored",)

    @pytest.mark.parametrize("value", ["False", "FALSE", "no", ""])
    def test_only_the_exact_words_switch_families(self, value: str) -> None:
        conf, _ = read_conf({**CONF, "ipam": {"type": "x", "assign_ipv4": value, "assign_ipv6": value}})
        assert (conf.want_v4, conf.want_v6) == (True, False)

    def test_wanted_addresses_of_every_convention(self) -> None:
        conf, _ = read_conf(
            {
                **CONF,
                "runtimeConfig": {"ips": ["10.0.0.2/24"], "mac": "0a:58:0a:00:00:02"},
                "args": {
                    "cni": {"ips": ["10.0.0.1"]},
                    "org.apache.mesos": {"network_info": {"ip_addresses": [{}, {"ip_address": "10.0.0.3"}]}},
                },
            }
        )
        assert conf.wanted_ips == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
        assert conf.mac == "0a:58:0a:00:00:02"

    def test_labels_of_both_conventions(self) -> None:
        both = mesos({"labels": {"labels": [{"key": "a", "value": None}, {"key": None}, None, {"key": "b"}]}})
        both["args"]["cni"] = {"labels": [{"key": "app", "value": "shop"}, {"key": "b", "value": "cni"}]}
        conf, _ = read_conf({**CONF, **both})
        found = labels.read((*conf.cni_labels, *conf.labels))
        assert found.labels == {"app": "shop", "a": "", "b": ""}
        assert len(found.notes) == 2

    @pytest.mark.parametrize("value", [None, {}, {"labels": None}, {"labels": []}])
    def test_labels_may_be_missing_in_every_way(self, value: Any) -> None:
        conf, _ = read_conf({**CONF, "args": {"org.apache.mesos": {"network_info": {"labels": value}}}})
        assert labels.read(conf.labels).labels == {}


class TestLabels:
    @pytest.mark.parametrize(
        ("text", "clean"),
        [
            ("/shop/eu-west", "shop.eu-west"),
            ("//my/val/", "my.val"),
            ("team:blue/green", "team-blue.green"),
            ("a b  c", "a-b-c"),
            ("..-x-..", "x"),
            ("ünï", "n"),
            ("", ""),
        ],
    )
    def test_cleaning(self, text: str, clean: str) -> None:
        assert sanitise(text) == clean

    @pytest.mark.parametrize("text", ["-" * 1_000_000, "-." * 500_000, "\N{SNOWMAN}" * 1_000_000, "/" * 1_000_000])
    def test_hostile_texts_take_time_by_their_length_only(self, text: str) -> None:
        started_s = time.process_time()
        assert sanitise(text) == ""
        found = labels.read([(text, text), ("projectcalico.org/namespace", text)])
        assert time.process_time() - started_s < 2
        assert (found.labels, len(found.problems[0]) < 300) == ({}, True)

    def test_the_published_vector_of_a_long_value(self) -> None:
        value = "/analytics/nightly/warehouse-loaders/customer-orders/partition-writer"
        short = compress(value)
        assert short == "5d558be...ly/warehouse-loaders/customer-orders/partition-writer"
        assert sanitise(short) == "5d558be.ly.warehouse-loaders.customer-orders.partition-writer"

    def test_63_bytes_stay_and_64_do_not(self) -> None:
        assert compress("x" * 63) == "x" * 63
        assert len(compress("x" * 64)) == 63

    @given(st.text(max_size=120))
    def test_any_text_becomes_a_legal_value(self, text: str) -> None:
        value = sanitise(compress(text))
        assert len(value) <= 63 or len(value.encode()) <= 63
        assert value == sanitise(value)

    def test_special_labels_are_not_stored(self) -> None:
        found = labels.read(
            [
                ("projectcalico.org/namespace", "Team/A"),
                ("projectcalico.org/ipv4pools", '["blue"]'),
                ("role", "web"),
                ("novalue", ""),
                ("///", "x"),
                ("", "x"),
            ]
        )
        assert found.labels == {"role": "web", "novalue": ""}
        assert (found.namespace, found.pools_v4) == ("Team.A", '["blue"]')
        assert len(found.notes) == 2
        assert legal_namespace(found.namespace) == "team-a"


class TestNames:
    @pytest.mark.parametrize(
        ("container", "network", "words"),
        [
            ("KATA", "calico", ["container id KATA", "lower case", "another id"]),
            ("kata_9f", "calico", ["container id kata_9f", "ContainerID = 'kata_9f'", "another id"]),
            ("kata.", "calico", ["container id kata.:", "another id"]),
            ("x" * 300, "calico", ["container id xxx", "too long", "another id"]),
            ("x", "MyNet", ["network name MyNet", "lower case", "rename it"]),
            ("x", "my_net", ["network name my_net", "rename it"]),
            ("x", "n" * 64, ["network name nnn", "at most 63", "rename it"]),
        ],
    )
    def test_the_refusal_of_a_name_says_which_and_what_to_do(
        self, container: str, network: str, words: list[str]
    ) -> None:
        wanted = Attachment(Identity("n1", "default", container, "eth0"), network)
        stored = endpoint.build_endpoint(wanted, "cali1", ["10.0.0.1"], "")
        with pytest.raises(ValidationError) as caught:
            endpoint.check_endpoint(stored)
            endpoint.check_profile(network)
        told = name_errors.explain(caught.value, container, network)
        assert [word for word in words if word not in str(told)] == []
        assert [(f.field, f.reason) for f in told.fields] == [(f.field, f.reason) for f in caught.value.fields]


class TestResults:
    FOUND = Addresses(("10.0.0.1/32", "fd00::1/128"), ({"dst": "0.0.0.0/0"}, {"dst": "::/0"}))
    ENDS = Interfaces("cali1", "eth0", "0a:00:00:00:00:01", "/ns", 1440)

    def render(self, version: str, found: Addresses = FOUND) -> Any:
        text = result.render_result(version, found, self.ENDS).decode()
        assert text.endswith("}\n")
        return json.loads(text)

    @pytest.mark.parametrize(("version", "said"), [("", "0.2.0"), ("0.1.0", "0.1.0"), ("0.2.0", "0.2.0")])
    def test_the_old_shape(self, version: str, said: str) -> None:
        assert self.render(version) == {
            "cniVersion": said,
            "ip4": {"ip": "10.0.0.1/32", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "fd00::1/128", "routes": [{"dst": "::/0"}]},
            "dns": {},
        }

    @pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
    def test_the_middle_shape(self, version: str) -> None:
        shown = self.render(version)
        assert shown["ips"][1] == {"version": "6", "interface": 1, "address": "fd00::1/128"}
        assert shown["interfaces"] == [
            {"name": "cali1"},
            {"name": "eth0", "mac": "0a:00:00:00:00:01", "sandbox": "/ns"},
        ]
        assert shown["dns"] == {}

    @pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
    def test_the_new_shape(self, version: str) -> None:
        shown = self.render(version)
        assert shown["ips"][0] == {"interface": 1, "address": "10.0.0.1/32"}
        assert shown["interfaces"][1]["mtu"] == 1440
        assert "dns" not in shown

    def test_no_address_cannot_be_told_in_the_old_shape(self) -> None:
        with pytest.raises(CniError, match="cannot convert: no valid IP addresses"):
            self.render("0.1.0", Addresses(()))

    @pytest.mark.parametrize("version", versions.SUPPORTED)
    def test_what_is_rendered_reads_back_whatever_it_says_its_version_is(self, version: str) -> None:
        shown = self.render(version)
        shown.pop("cniVersion")
        assert result.parse_result(shown).cidrs == self.FOUND.cidrs

    @given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
    def test_any_document_reads_or_is_refused(self, document: Any) -> None:
        try:
            result.parse_result(document)
        except CniError:
            assert not isinstance(document, dict)


class TestEndpoints:
    def build(self, container: str = "5f0c9e11-2b7a", interface: str = "eth0", network: str = "calico") -> Any:
        wanted = Attachment(Identity("10.0.4.17", "default", container, interface), network)
        return endpoint.build_endpoint(wanted, "cali1", ["10.0.0.1"], "")

    def test_the_name_doubles_dashes(self) -> None:
        assert self.build().metadata.name == "10.0.4.17-cni-5f0c9e11--2b7a-eth0"

    def test_nested_ids_are_legal_and_others_are_not(self) -> None:
        endpoint.check_endpoint(self.build("parent.child"))
        for bad in ("UPPER", "under_score"):
            with pytest.raises(ValidationError):
                endpoint.check_endpoint(self.build(bad))

    @pytest.mark.parametrize("network", ["MyNet", "my_net", "x" * 64])
    def test_networks_that_cannot_name_a_profile(self, network: str) -> None:
        with pytest.raises(ValidationError):
            endpoint.check_profile(network)

    @pytest.mark.parametrize("interface", ["Eth0", "eth@0", "a b", "-", "é"])
    def test_odd_interface_names_are_mapped_to_legal_and_different_ones(self, interface: str) -> None:
        endpoint.check_endpoint(self.build(interface=interface))
        assert endpoint_segment(interface) not in {"eth0", interface}
        assert endpoint_segment("eth0") == "eth0"


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ({"a": {}, "b": [], "c": ["é", 1, None]}, None),
        ({"msg": "half a character: \ud800"}, b'{\n    "msg": "half a character: ?"\n}\n'),
        ({"n": 2**70}, b'{\n    "n": 1180591620717411303424\n}\n'),
    ],
)
def test_documents_are_printed_as_the_standard_library_prints_them(value: object, printed: bytes | None) -> None:
    wanted = (json.dumps(value, indent=4, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    assert result.render_json(value) == wanted and (printed is None or printed == wanted)
