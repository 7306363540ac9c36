"""What a user's script does with the package etcd3, which is not ours: one command a run, words as JSON on both sides.

Usage: python etcd3_script.py PORT < command.json
The stubs that etcd3 0.12 ships need protobuf in pure Python: PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import etcd3


def read(client: Any, prefix: str) -> dict[str, Any]:
    """Every key below a prefix: value, revision, version, and of its lease the time to live and the keys."""
    found: dict[str, Any] = {}
    for value, about in client.get_prefix(prefix):
        lease = client.get_lease_info(about.lease_id) if about.lease_id else None
        found[about.key.decode()] = {
            "value": value.decode(),
            "mod_revision": about.mod_revision,
            "version": about.version,
            "ttl_s": lease.grantedTTL if lease else 0,
            "leased": [key.decode() for key in lease.keys] if lease else [],
        }
    return found


def write(client: Any, values: dict[str, str], ttl_s: int = 0) -> int:
    """Put them, under one lease if there is a time to live; the lease."""
    lease = client.lease(ttl_s) if ttl_s else None
    for key, value in values.items():
        client.put(key, value, lease=lease)
    return lease.id if lease else 0


def swap(client: Any, key: str, old: str, new: str) -> bool:
    """Put a value if the present one is `old`: one transaction."""
    done, _ = client.transaction(
        compare=[client.transactions.value(key) == old],
        success=[client.transactions.put(key, new)],
        failure=[],
    )
    return bool(done)


def delete(client: Any, prefix: str) -> int:
    """How many keys are gone."""
    return int(client.delete_prefix(prefix).deleted)


COMMANDS: dict[str, Callable[..., Any]] = {"read": read, "write": write, "swap": swap, "delete": delete}


def main() -> None:
    """Run the command of standard input."""
    name, arguments = json.load(sys.stdin)
    with etcd3.client(port=int(sys.argv[1])) as client:
        json.dump(COMMANDS[name](client, *arguments), sys.stdout)


if __name__ == "__main__":
    main()
