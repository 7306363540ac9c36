"""cluster diags: every object, addresses and etcd in one archive without secrets (spec/calicoctl.md 7.7)."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from calicoctl import session
from calicoctl.commands.node_diags import learn, report_failures, save
from calicoctl.diags import bundle, cluster, findings
from calicoctl.diags.collect import ITEM_S, Item, Wanted, collect, in_thread
from calicoctl.diags.node import see_etcd
from calicoctl.diags.secrets import Secrets
from libcalico import __version__
from libcalico.clock import SystemClock
from libcalico.errors import CalicoError

SEE_S = 25.0
NAME = "calico-cluster-diags"


def run(arguments: dict[str, Any]) -> int:
    """Collect, and print where the archive is. Status 1 when the datastore could not be read whole."""
    config = arguments["--config"]
    print("Collecting diagnostics of the cluster", flush=True)
    now = SystemClock().now()
    seen, members, wanted, items = asyncio.run(_collect(arguments))
    secrets = Secrets()
    for objects in seen.objects.values():
        secrets.learn_object(objects)
    learn(secrets, items, config)
    report_failures(wanted, bundle.clean(items, secrets))
    at_s = SystemClock().now().timestamp()
    found = [*findings.etcd(members, at_s), *cluster.what_is_wrong(seen, at_s)]
    path = Path(tempfile.mkdtemp(prefix="calico")) / f"{NAME}-{now:%Y%m%d_%H%M%S}.tar.gz"
    title = f"Diagnostics of a cluster, {now:%Y-%m-%d %H:%M:%S} UTC, calicoctl {__version__}"
    save(path, title, found, items, secrets, now.timestamp())
    return 1 if seen.failure else 0


async def _collect(arguments: dict[str, Any]) -> tuple[cluster.Seen, list[Any], list[Wanted], list[Item]]:
    nothing = cluster.Seen({}, [], [], {}, {})
    members = []
    try:
        async with asyncio.timeout(ITEM_S):
            etcd = await in_thread(partial(see_etcd, arguments["--config"]))
        members = etcd.members
        if etcd.failure:
            seen = nothing._replace(failure=etcd.failure)
        else:
            async with asyncio.timeout(SEE_S):
                seen = await in_thread(partial(cluster.see, partial(session.connect, arguments)))
    except TimeoutError:
        seen = nothing._replace(failure="etcd did not answer in time")
    except CalicoError as error:
        seen = nothing._replace(failure=str(error))
    wanted = list(cluster.wanted(arguments["--config"], seen))
    return seen, members, wanted, await collect(wanted)
