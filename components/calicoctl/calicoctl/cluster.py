"""A client for a command: connected, its warnings shown, its release compared (spec/calicoctl.md 1.1)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from calicoctl import session
from calicoctl.failures import show_notes
from libcalico.errors import CalicoError, ParsingDatastoreEntry, Unreachable
from libcalico.model.resources import ClusterInformation

if TYPE_CHECKING:
    from calicoctl.session import Session


def connect(arguments: dict[str, Any], initialise: bool = False) -> Session:
    """A client as the options and the environment say; `initialise`: the cluster is made ready for objects.

    What the datastore's release means for the command is a warning: everything that is stored is read as every release
    writes it."""
    client = session.connect(arguments)
    client.show_warnings(warn)
    name_cluster(client, arguments)
    silent = bool(arguments.get("--allow-version-mismatch"))
    if initialise or not silent:
        try:
            information = _information(client, initialise, silent)
        except Unreachable:  # the command would wait for it once more, in vain
            client.close()
            raise
        if information is not None and not silent:
            _compare_versions(information.spec.calico_version)
    return client


def name_cluster(client: Session, arguments: dict[str, Any]) -> None:
    """A context is Kubernetes' way to choose a cluster: whoever gives one should know which is meant here."""
    if arguments.get("--context"):
        show_notes([f"--context={arguments['--context']} chooses nothing here: this is the cluster at {client.where}"])


def warn(text: str) -> None:
    """A warning is for scripts' logs too: on stderr, terminal or not."""
    print(f"warning: {text}", file=sys.stderr)


def _information(client: Session, initialise: bool, silent: bool) -> ClusterInformation | None:
    """What the cluster says of itself, None if it says nothing. The command's own errors say what is wrong; only a
    datastore that is away is an error here, unless nobody asked."""
    try:
        return client.ensure_initialized() if initialise else client.get(ClusterInformation, "default")
    except ParsingDatastoreEntry as error:
        if not silent:
            warn(f"unable to get Cluster Information to verify version mismatch: {error}")
    except Unreachable:
        if not silent:
            raise
    except CalicoError:
        pass
    return None


def _compare_versions(cluster: str) -> None:
    if cluster and _release(cluster) != _release(session.CLIENT_VERSION):
        warn(
            f"version mismatch: the cluster says {cluster}, this program does as {session.CLIENT_VERSION}"
            " (--allow-version-mismatch silences this)"
        )


def _release(version: str) -> str:
    return version.removeprefix("v").partition("-")[0]
