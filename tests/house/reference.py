"""Reference pages that are written from the code: `python -m tests.house.reference`. A test compares them with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from calico_felix.foreign import FOREIGN
from calico_felix.parameters import PARAMETERS
from calico_felix.startup.detection import Method
from calico_felix.startup.variables import NODE_VARIABLES, POOL_VARIABLES, STARTUP_VARIABLES
from calicoctl.operands import kind_of
from calicoctl.output.tables import headings
from libcalico.config import Parameter
from libcalico.datastore.settings import SETTINGS, Setting
from libcalico.errors import BadData
from libcalico.model import KINDS
from libcalico.model.felix_fields import FIELDS, parameter_name
from libcalico.obs.figures import CONFD_FIGURES, FIGURES

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
REFUSED = ("-1", "!")
"""No number that is in order, no word: what a parameter says of one of them tells what its values are."""


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    names = list(header)
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def values_of(parameter: Parameter) -> str:
    """What a parameter's values are, in the words with which it refuses another."""
    for text in REFUSED:
        try:
            parameter.read(text)
        except ValueError as error:
            return str(error).partition(": ")[0].removeprefix("is not ").removeprefix("one of ")
    return "text" if isinstance(parameter.default, str) else "words with a comma between them"


def default_of(parameter: Parameter) -> str:
    """The default as a user would write it."""
    value: Any = parameter.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        value = ",".join(value)
    if value is None or value == "":
        return ""
    if isinstance(value, int | float):
        value = f"{value:#x}" if parameter.name.endswith("Mask") else f"{value:g}"
    return f"`{value}`"


def field_of(parameter: Parameter) -> str:
    """The member of a FelixConfiguration that sets it, if one does."""
    if not parameter.datastore:
        return "host only"
    by_name = {parameter_name(field).lower(): field for field in FIELDS}
    return f"`{by_name[parameter.name.lower()]}`"


def restarts(parameter: Parameter) -> str:
    """Does a change in the datastore restart the agent?"""
    return "-" if not parameter.datastore else "no" if parameter.live else "yes"


def settings_page() -> str:
    """Every parameter of the agent."""
    rows = [
        (f"`{one.name}`", one.text, values_of(one), default_of(one), field_of(one), restarts(one)) for one in PARAMETERS
    ]
    foreign = ", ".join(f"`{one.name}`" for one in sorted(FOREIGN) if "*" not in one.already)
    fatal = ", ".join(f"`{one.name}`" for one in PARAMETERS if one.fatal)
    return f"""# The agent's settings

Written from `components/felix/calico_felix/parameters.py` by `make reference`.

A setting comes from the first of these places that has it:

1. the environment: `FELIX_` and the name in capitals, such as `FELIX_HEALTHENABLED`;
2. the file `/etc/calico/felix.cfg`, or that of `calico-felix -c FILE`: `HealthEnabled = true` under `[global]`, names
   in any case;
3. the FelixConfiguration `node.<node name>`, then the oldest of those with a `nodeSelector` that selects the node, then
   the FelixConfiguration `default`;
4. the default below; where none is given, it is empty or stands in the second column.

"Host only" cannot be set in the datastore. Where a setting "restarts", the agent ends with status 129 when it changes
in the datastore, and its supervisor starts it again; policy and traffic stand meanwhile. Where it does not, the agent
takes it over as it runs.

A bad value is one warning and the default counts, but for these: an agent that starts waits until they are
mended, one that runs keeps the former value:
{fatal}.

A name that is no parameter's is one warning, with the line of the file and the name that may have been meant. So is one
of upstream's parameters that are not supported here (listed below), unless its value asks for what is done anyway.
`problems` of the debug commands lists them all for as long as they stand.

`config` of the [debug commands](../howto/debug.md) shows what is in force, and where it comes from.

{table(("setting", "what", "values", "default", "in a FelixConfiguration", "restarts"), rows)}
Upstream's parameters that are not supported here: {foreign}.
"""


def etcd_page() -> str:
    """Every setting of the connection to etcd, under each of its names."""

    def names(one: Setting) -> tuple[str, ...]:
        places = (one.variable, one.member, one.parameter, one.network)
        return (*(f"`{name}`" if name else "" for name in places), one.text)

    header = ("variable", "calicoctl.cfg, in `spec`", "felix.cfg", "CNI network", "what")
    return f"""# How etcd is reached

Written from `libcalico/libcalico/datastore/settings.py` by `make reference`.

The same settings have a name in each place. Every variable is also known with the prefix `CALICO_`. The first place
that has a setting counts, and an empty one counts as none:

| program | places, in this order |
|---|---|
| `calicoctl`, `libcalico.Client` | `/etc/calico/calicoctl.cfg` alone if it is there; else `CALICO_` variables, plain |
| `calico-felix` and `startup`, `calico-node -felix` | `FELIX_` variables, felix.cfg, `CALICO_` variables, plain ones |
| `calico-node` with any other flag | `CALICO_` variables, plain ones |
| the CNI plug-in when no agent answers | `CALICO_` variables, the network's configuration, plain ones |

{table(header, (names(one) for one in SETTINGS))}
A file that is there and cannot be read is an error. Key and certificate are given together, and checked before they are
used. Without an authority, `SSL_CERT_FILE`, `SSL_CERT_DIR`, else the distribution's list count. Certificates that are
renewed on disk are read again before the next attempt to connect. The variables of proxies (`http_proxy` and its like)
are not used for etcd.

Of etcd's own keys, RSA, P-256 and P-384 work. Ed25519 and P-521 do not, and the error says so; a client's key may be of
these kinds too.
"""


def is_known(kind: str) -> bool:
    """Does calicoctl know the kind?"""
    words = KINDS[kind].words
    try:
        return bool(words) and kind_of(words[0]) == kind
    except BadData:
        return False


def kinds_page() -> str:
    """Every kind, and the words for it."""
    known = [kind for kind in KINDS.values() if is_known(kind.name)]
    rows = [
        (
            f"`{kind.name}`",
            "in a namespace" if kind.namespaced else "global",
            " ".join(f"`{word}`" for word in kind.words),
            f"`{kind.plural}`",
            " ".join(headings(kind.name, kind.namespaced)),
        )
        for kind in known
    ]
    others = ", ".join(f"{kind.name} (`{kind.plural}`)" for kind in KINDS.values() if kind not in known)
    return f"""# Kinds

Written from `libcalico/libcalico/model/kinds.py` and calicoctl's tables by `make reference`.

`calicoctl get policy`, `calicoctl get np` and `calicoctl get NetworkPolicy` are the same: words are taken in any case.
Columns are those of `-o custom-columns=A,B`. Kinds in a namespace are in `default` unless `-n` says otherwise; `-A` is
all namespaces. In etcd an object is `/calico/resources/v3/projectcalico.org/<plural>/<name>`, with `<namespace>/`
before the name of one that is in a namespace.

{table(("kind", "scope", "words", "plural", "columns"), rows)}
Kinds of upstream that calicoctl does not know; what other tools stored of them stays as it is:
{others}.
"""


def metrics_page() -> str:
    """Every figure of the daemons."""
    rows = [
        (f"`{one.name}`", one.kind, one.unit, one.text, f"`{one.status}`" if one.status else "")
        for one in sorted(FIGURES)
    ]
    of_confd = [(f"`{one.name}`", one.kind, one.unit, one.text) for one in sorted(CONFD_FIGURES)]
    return f"""# Metrics

Written from `libcalico/libcalico/obs/figures.py` by `make reference`.

`/metrics` of the agent has these, with `PrometheusMetricsEnabled` (port 9091), and `process_…` and `python_gc_…` of
every Python process. `status` of the [debug commands](../howto/debug.md) has most of them, under shorter names; those
that end with `_ms` are in milliseconds there. A figure of the kernel's state appears when the agent has the datastore
and its settings.

{table(("metric", "kind", "unit", "what", "in `status`"), rows)}
`dcos-calico-confd` has these and the same of every Python process, with `CALICO_CONFD_METRICS_PORT`.

{table(("metric", "kind", "unit", "what"), of_confd)}"""


def startup_page() -> str:
    """Every variable of start-up."""

    def rows(table_: Iterable[Parameter]) -> list[tuple[str, ...]]:
        return [(f"`{one.name}`", one.text, written_default(one)) for one in table_]

    def written_default(one: Parameter) -> str:
        return f"`{one.default}`" if isinstance(one.default, Method) else default_of(one)

    header = ("variable", "what", "default")
    return f"""# Variables of start-up

Written from `components/felix/calico_felix/startup/variables.py` by `make reference`.

`calico-node` and `calico-felix startup` read them from the environment; an empty one counts as not set. A value that
cannot be used ends the program with status 1, and it says which variable, which value and why.
[How to use them](../howto/node.md).

## The node

Its name is `NODENAME`, else what the nodename file says, else `HOSTNAME` in lower case, else the system's host name.

{table(header, rows(NODE_VARIABLES))}
## Start-up

{table(header, rows(STARTUP_VARIABLES))}
`CALICO_STARTUP_LOGLEVEL` is the least severity that `calico-node` logs, `info` without it.

## The default pools

They describe a pool that is made: while a pool of the family exists, whatever its name, a difference is one warning.
The IPv6 pool is made where the kernel has IPv6 and `FELIX_IPV6SUPPORT` is not `false`.

{table(header, (*rows(POOL_VARIABLES[4]), *rows(POOL_VARIABLES[6])))}"""


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "kinds.md": kinds_page,
    "etcd.md": etcd_page,
    "metrics.md": metrics_page,
    "startup.md": startup_page,
}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())


if __name__ == "__main__":
    main()
