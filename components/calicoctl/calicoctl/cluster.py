"""A client for a command: connected, its warnings shown, its release compared (spec/calicoctl.md 1.1)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from calicoctl import session
from calicoctl.failures import show_notes
from libcalico.errors import CalicoError, DatastoreError, ResourceDoesNotExist, Unreachable
from libcalico.model.resources import ClusterInformation

if TYPE_CHECKING:
    from libcalico.client.blocking import Client


def connect(arguments: dict[str, Any]) -> Client:
    """A client as the options and the environment say. What the datastore's release means for the command is a warning:
    everything that is stored is read as every release writes it."""
    client = session.connect(arguments)
    client.show_warnings(warn)
    name_cluster(client, arguments)
    if not arguments.get("--allow-version-mismatch"):
        try:
            _compare_versions(client)
        except Unreachable:  # the command would wait for it once more, in vain
            client.close()
            raise
    return client


def name_cluster(client: Client, arguments: dict[str, Any]) -> None:
    """A context is Kubernetes' way to choose a cluster: whoever gives one should know which is meant here."""
    if arguments.get("--context"):
        show_notes([f"--context={arguments['--context']} chooses nothing here: this is the cluster at {client.where}"])


def warn(text: str) -> None:
    """A warning is for scripts' logs too: on stderr, terminal or not."""
    print(f"warning: {text}", file=sys.stderr)


def _compare_versions(client: Client) -> None:
    try:
        cluster = client.get(ClusterInformation, "default").spec.calico_version
    except Unreachable:
        raise
    except (ResourceDoesNotExist, DatastoreError):
        return
    except CalicoError as error:
        warn(f"unable to get Cluster Information to verify version mismatch: {error}")
        return
    if cluster and _release(cluster) != _release(session.CLIENT_VERSION):
        warn(
            f"version mismatch: the cluster says {cluster}, this program does as {session.CLIENT_VERSION}"
            " (--allow-version-mismatch silences this)"
        )


def _release(version: str) -> str:
    return version.removeprefix("v").partition("-")[0]
