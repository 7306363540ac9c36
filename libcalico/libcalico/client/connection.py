"""The settings of calicoctl and of scripts: a CalicoAPIConfig file, else the environment (spec/datastore.md 9).

A file that exists is used alone; file and environment are never merged. One that exists and cannot be read is an
error: the environment might name another cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from libcalico.datastore.settings import EtcdConfig, etcd_config, from_environment, log_warning
from libcalico.errors import BadData
from libcalico.files import is_there, read_small

DEFAULT_FILE = "/etc/calico/calicoctl.cfg"


class UnreadableConfig(BadData):
    """A configuration file that was asked for, or that is there, cannot be read."""

    def __init__(self, path: str, cause: OSError) -> None:
        super().__init__(f"Error reading config file: {path}")
        self.add_note(f"open {path}: {(cause.strerror or str(cause)).lower()}")


def load(path: str, environment: Mapping[str, str], warn: Callable[[str], None] = log_warning) -> EtcdConfig:
    """The connection settings; `warn` takes what is deprecated. Raises `UnreadableConfig`, or `BadData` with upstream's
    words."""
    try:
        content = read_small(path)
    except OSError as error:
        if path == DEFAULT_FILE and not is_there(path) and isinstance(error, FileNotFoundError | NotADirectoryError):
            return etcd_config(from_environment(environment), warn)
        raise UnreadableConfig(path, error) from None
    from libcalico.client import config_file  # most commands have a file, or need none of what it loads

    return etcd_config(config_file.read(content, path), warn)
