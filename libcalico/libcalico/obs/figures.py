"""The daemons' figures: a table of each feeds its `/metrics`, and the agent's the node API's Status and `status` of the
debug commands.

Every part of a daemon that counts something has a method `figures() -> Mapping[str, float]`, whose keys are names of
this table; `Figures` collects them. Names are upstream's where upstream has the figure (spec/felix.md 5.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

COUNTER, GAUGE = "counter", "gauge"
MILLISECONDS, SECONDS = "_ms", "_s"
"""Ends of the names of times in `status`: they are rounded there to 0.01 ms and 0.1 s."""

Source = Callable[[], Mapping[str, float]]
"""Figures by name, as they are now."""


class Figure(NamedTuple):
    """One row. A counter only grows while the agent runs."""

    name: str
    text: str
    unit: str
    kind: str = GAUGE
    status: str = ""
    """Its name in `status`; empty where it does not stand there."""
    reply: str = ""
    """Its field of `StatusReply` (rpc/node.proto), if it has one of its own."""


FIGURES = (
    Figure("felix_datastore_revision", "Newest datastore revision seen", "revision",
           status="datastore_revision", reply="datastore_revision"),
    Figure("felix_datastore_age_seconds", "Since the datastore was last heard", "seconds", status="last_heard_s"),
    Figure("felix_unfinished_dels", "DELs that the agent has to finish", "DELs", status="unfinished_dels"),
    Figure("felix_resyncs_started", "Snapshots of the datastore", "snapshots", COUNTER, "resyncs"),
    Figure("felix_uptime_seconds", "Since the agent was started", "seconds", status="uptime_s", reply="uptime_s"),
    Figure("felix_loop_lag_seconds", "How late the event loop last was", "seconds", status="loop_lag_ms"),
    Figure("felix_ignored_objects", "Objects that cannot be used", "objects", status="ignored_objects"),
    Figure("felix_programmed_revision", "Revision that the kernel reflects", "revision",
           status="programmed_revision", reply="programmed_revision"),
    Figure("felix_active_local_endpoints", "Local workload endpoints", "endpoints",
           status="endpoints", reply="local_endpoints"),
    Figure("felix_active_local_policies", "Policies and profiles in use", "policies",
           status="policies", reply="active_policies"),
    Figure("felix_ruleset_chains", "Chains of our table", "chains", status="chains"),
    Figure("felix_ipsets_calico", "Kernel sets", "sets", status="sets", reply="ip_sets"),
    Figure("felix_routes", "Routes that are wanted in the kernel", "routes", status="routes"),
    Figure("felix_applies", "Times that the kernel was brought up to date", "applies", COUNTER, "applies"),
    Figure("felix_int_dataplane_failures", "Failures to program the kernel", "failures", COUNTER, "failures"),
    Figure("felix_ruleset_repairs", "Times that another process changed our table", "repairs", COUNTER, "repairs"),
    Figure("felix_foreign_accepts", "Rules of ours in chains of other programs", "rules", status="foreign_accepts"),
    Figure("felix_last_apply_seconds", "Time of the last apply", "seconds", status="last_apply_ms"),
    Figure("felix_ipam_mended_blocks", "Free lists that named used addresses", "blocks", COUNTER),
)  # fmt: skip
"""The agent's, in the order in which `status` prints them."""

CONFD_FIGURES = (
    Figure("confd_sessions", "BGP sessions in the file that BIRD reads", "sessions"),
    Figure("confd_problems", "Stored things that were left out of the file, or changed", "problems"),
    Figure("confd_refused", "1: BIRD refuses the newest configuration, and an older one is in force", "yes or no"),
    Figure("confd_refusals", "Configurations that BIRD refused", "configurations", COUNTER),
    Figure("confd_failing", "1: the file cannot be written, checked or read by BIRD just now", "yes or no"),
    Figure("confd_failures", "Times that writing, checking or reading failed", "failures", COUNTER),
    Figure("confd_writes", "Times that the file was written", "files", COUNTER),
    Figure("confd_reloads", "Times that BIRD was made to read the file", "reloads", COUNTER),
    Figure("confd_follows_agent", "1: the state comes from the agent, and not from a datastore session", "yes or no"),
    Figure("confd_switches", "Times that another source of the state was taken", "switches", COUNTER),
)
"""Those of `dcos-calico-confd`."""

BY_NAME = {figure.name: figure for figure in (*FIGURES, *CONFD_FIGURES)}


class Figures:
    """The figures of one process, read from its parts whenever they are asked for."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Ask this part, too."""
        self._sources.append(source)

    def read(self) -> dict[str, float]:
        """All figures that the parts have, in the table's order; parts that are not there yet have none."""
        found = {name: value for source in self._sources for name, value in source().items()}
        unknown = found.keys() - BY_NAME.keys()
        assert not unknown, f"figures that the table does not have: {sorted(unknown)}"
        return {name: found[name] for name in BY_NAME if name in found}


def status_of(values: Mapping[str, float]) -> dict[str, float]:
    """The figures of `status`, under their names there; times in the unit of the name's end.

    In the table's order, as a message of the node API has none; what a newer agent has more is left out."""
    rows = ((figure, values[figure.name]) for figure in FIGURES if figure.name in values)
    return {figure.status: _rounded(figure, value) for figure, value in rows if figure.status}


def _rounded(figure: Figure, value: float) -> float:
    if figure.status.endswith(MILLISECONDS):
        return round(value * 1000, 2)
    return round(value, 1) if figure.status.endswith(SECONDS) else int(value)


def reply_of(values: Mapping[str, float]) -> dict[str, Any]:
    """The figures that have a field of their own in `StatusReply`, by its name."""
    rows = ((BY_NAME[name], value) for name, value in values.items())
    return {figure.reply: value for figure, value in rows if figure.reply}


def exposition(values: Mapping[str, float]) -> str:
    """The figures in Prometheus' text format 0.0.4.

    Written here, since prometheus_client would add `_total` to the names of upstream's counters."""
    return "".join(_exposed(BY_NAME[name], value) for name, value in values.items())


def _exposed(figure: Figure, value: float) -> str:
    head = f"# HELP {figure.name} {figure.text}\n# TYPE {figure.name} {figure.kind}\n"
    return f"{head}{figure.name} {float(value)!r}\n"
