"""The printed forms are contracts: tables, boxes, YAML and JSON, to the byte."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calicoctl.output import documents, tables
from libcalico import boxes
from libcalico.manifest.yaml_input import load
from libcalico.model.numbers import go_number, json_number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e6, "1e+06"),
        (50.5, "50.5"),
        (123456789, "1.23456789e+08"),
        (-1, "-1"),
        (0, "0"),
        (1e-5, "1e-05"),
        (999999, "999999"),
    ],
)
def test_numbers_print_as_go_prints_them(value: float, text: str) -> None:
    assert go_number(value) == text


@pytest.mark.parametrize(("value", "text"), [(1e6, "1000000"), (10.5, "10.5"), (1e21, "1e+21"), (1e20, "1" + "0" * 20)])
def test_json_numbers_keep_their_digits(value: float, text: str) -> None:
    assert json_number(value) == text


def test_table_pads_every_column_and_ends_with_a_blank_line() -> None:
    policy = {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"tier": "default", "selector": "app == 'web'"}}
    text = tables.render("NetworkPolicy", ("NAMESPACE", "NAME", "TIER", "ORDER", "SELECTOR"), [policy])
    assert text == (
        "NAMESPACE   NAME   TIER      ORDER   SELECTOR       \nshop        web    default   <nil>   app == 'web'   \n\n"
    )


def test_table_without_rows_still_has_its_header() -> None:
    assert tables.render("Node", ("NAME",), []) == "NAME   \n\n"


def test_a_long_list_of_nets_is_cut_at_eighty_characters() -> None:
    item = {"metadata": {"name": "many"}, "spec": {"nets": [f"10.{number}.0.0/16" for number in range(8)]}}
    row = tables.render("GlobalNetworkSet", ("NETS",), [item]).split("\n")[1]
    assert row.rstrip() == "10.0.0.0/16,10.1.0.0/16,10.2.0.0/16,10.3.0.0/16,10.4.0.0/16,10.5.0.0/16,10.6...."


@pytest.mark.parametrize(
    "text",
    ["1", "yes", "n", "null", "2026-03-01T10:00:30Z", "0x10", "12:30:45", "", "~", "1e3", ".5", "0XF", "0B1", "-_1"],
)
def test_text_that_yaml_would_misread_is_quoted(text: str) -> None:
    assert documents.to_yaml({"key": text}) == f'key: "{text}"\n'


@pytest.mark.parametrize("text", ["web", "10.0.0.1/32", "app == 'web'", "fd00::1", "8000:8010x", "=", "<<"])
def test_ordinary_text_stays_plain(text: str) -> None:
    assert documents.to_yaml({"key": text}) == f"key: {text}\n"


def test_yaml_is_sorted_valid_and_does_not_indent_lists() -> None:
    value = {"spec": {"nets": ["10.0.0.0/8"], "cidr": "x"}, "kind": "K", "items": []}
    text = documents.to_yaml(value)
    assert text == "items: []\nkind: K\nspec:\n  cidr: x\n  nets:\n  - 10.0.0.0/8\n"
    assert yaml.safe_load(text) == value


@pytest.mark.parametrize(
    ("text", "shown"), [("a\x85b", r"a\Nb"), ("a\u2028b", r"a\Lb"), ("a\u2029\nb", r"a\P\nb"), ("\x85", r"\N")]
)
def test_line_breaks_of_yaml_alone_are_escaped(text: str, shown: str) -> None:
    assert documents.to_yaml({"key": text}) == f'key: "{shown}"\n'


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.text(" \n\t\r\x85\u2028\ufeff:#-'\"\\%@`|>&*!{}[],?.=~a", max_size=12)
    | st.text("0123456789abefinoxyBEFINOXY._+-:", max_size=8)
)
def test_any_text_is_read_back_as_it_was(text: str) -> None:
    value = {"key": text, text: [text, {"inner": text}]}
    assert load(documents.to_yaml(value)) == value


def test_json_keeps_member_order_and_escapes_html() -> None:
    value = {"kind": "K", "apiVersion": "a<b&c", "order": 1e6}
    text = documents.to_json(value)
    assert text == '{\n  "kind": "K",\n  "apiVersion": "a\\u003cb\\u0026c",\n  "order": 1000000\n}'
    assert json.loads(text) == value


def test_box_centres_the_header_and_puts_numbers_right() -> None:
    text = boxes.render(
        ("GROUPING", "CIDR", "IPS TOTAL"), [("IP Pool", "172.29.0.0/16", "65536"), ("Block", "172.29.7.0/26", "64")]
    )
    assert text == (
        "+----------+---------------+-----------+\n"
        "| GROUPING |     CIDR      | IPS TOTAL |\n"
        "+----------+---------------+-----------+\n"
        "| IP Pool  | 172.29.0.0/16 |     65536 |\n"
        "| Block    | 172.29.7.0/26 |        64 |\n"
        "+----------+---------------+-----------+\n"
    )


def test_box_without_rows() -> None:
    assert boxes.render(("A", "B"), []) == "+---+---+\n| A | B |\n+---+---+\n+---+---+\n"
