"""Upstream's error texts are taken apart into the fields that bind."""

from __future__ import annotations

from tests.compat.error_fields import missing_fields, parse_fields, surroundings


def test_one_field_and_many() -> None:
    one = "failed to create 'Tier' resource: [error with field Name = 'a(b) = c' (must not (be) so)]\n"
    assert parse_fields(one) == [("Name", "must not (be) so")]
    many = (
        "failed: [error with the following fields:\n-  A = '[x\ny]' (first)\n-  spec (second)\n"
        "-  C = '' (Reason: failed to validate Field: C because of Tag: t )\n]"
    )
    tag = "Reason: failed to validate Field: C because of Tag: t "
    assert parse_fields(many) == [("A", "first"), ("spec", "second"), ("C", tag)]
    assert parse_fields("no fields here") == []


def test_errors_of_several_objects() -> None:
    two = "failed to create any: [error with field A = 'x' (first) error with field B = 'y' (second (2))]\n"
    assert parse_fields(two) == [("A", "first"), ("B", "second (2)")]
    assert surroundings(two) == ("failed to create any: [", "]\n")


def test_schema_errors_do_not_bind() -> None:
    wanted = [("A", "x"), ("spec.a[0]", "y"), ("IPPool", "z")]
    assert missing_fields(wanted, []) == [("A", "x")]
    assert missing_fields(wanted, [("A", "x")]) == []


def test_a_list_inside_a_reason_does_not_bind() -> None:
    wanted = [("Methods", "Invalid methods (duplicates): [GET GET]")]
    assert missing_fields(wanted, [("Methods", "Invalid methods (duplicates): [GET]")]) == []
    assert missing_fields(wanted, [("Methods", "Invalid methods")]) == wanted
