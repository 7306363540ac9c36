"""The connection to the datastore (spec/calicoctl.md 2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from calicoctl.failures import failed_by
from libcalico.errors import CalicoError

if TYPE_CHECKING:
    from libcalico.client.blocking import Client

CLIENT_VERSION = "v3.32.1"


def connect(arguments: dict[str, Any]) -> Client:
    """A client as the options and the environment say; a failure is printed on stdout, as upstream does.

    Only here is gRPC loaded, which takes longer than most commands: those without a datastore do without it."""
    from libcalico.client.blocking import Client
    from libcalico.client.connection import UnreadableConfig

    try:
        return Client(config_file=arguments["--config"], environment=os.environ)
    except UnreadableConfig as error:
        raise failed_by(error, str(error), to_stdout=True) from None
    except CalicoError as error:
        raise failed_by(error, f"Failed to create Calico API client: {error}", to_stdout=True) from None
