"""One table of figures for metrics, the node API and the debug commands."""

from __future__ import annotations

from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from libcalico.obs.figures import BY_NAME, COUNTER, FIGURES, GAUGE, Figures, exposition, reply_of, status_of
from libcalico.rpc import node_pb2 as pb


def test_a_name_means_one_thing() -> None:
    for names in ([f.name for f in FIGURES], [f.status for f in FIGURES], [f.reply for f in FIGURES]):
        assert [name for name, times in Counter(names).items() if name and times > 1] == []
    assert {figure.kind for figure in FIGURES} == {COUNTER, GAUGE}
    assert all(figure.unit and figure.text and figure.name.startswith("felix_") for figure in FIGURES)


def test_what_the_node_api_has_of_its_own_are_fields_of_it() -> None:
    fields = set(pb.StatusReply.DESCRIPTOR.fields_by_name)
    assert {figure.reply for figure in FIGURES} - {""} <= fields
    values = dict.fromkeys(BY_NAME, 3)
    assert pb.StatusReply(**reply_of(values)).local_endpoints == 3


def test_times_are_rounded_for_people() -> None:
    values = {"felix_last_apply_seconds": 0.0031234, "felix_uptime_seconds": 1.26, "felix_routes": 4}
    assert status_of(values) == {"last_apply_ms": 3.12, "uptime_s": 1.3, "routes": 4}


def test_a_collector_reads_every_figure_under_its_own_name() -> None:
    values = {figure.name: place + 0.5 for place, figure in enumerate(FIGURES)}
    read = {  # this parser calls every counter _total, as OpenMetrics does
        sample.name.removesuffix("_total"): sample.value
        for family in text_string_to_metric_families(exposition(values))
        for sample in family.samples
    }
    assert read == values


def test_parts_give_their_figures_in_the_order_of_the_table() -> None:
    figures = Figures()
    figures.add(lambda: {"felix_routes": 4})
    figures.add(lambda: {"felix_datastore_revision": 9})
    assert list(figures.read().items()) == [("felix_datastore_revision", 9), ("felix_routes", 4)]


def test_a_figure_that_the_table_does_not_have_is_a_mistake() -> None:
    figures = Figures()
    figures.add(lambda: {"felix_aplies": 4})
    with pytest.raises(AssertionError, match="felix_aplies"):
        figures.read()
