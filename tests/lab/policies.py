"""Policies as users write them."""

from __future__ import annotations

import json


def policy(name: str, selector: str, **spec: object) -> str:
    """A global policy as calicoctl reads it."""
    return json.dumps({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": name},
        "spec": {"selector": selector, **spec},
    })  # fmt: skip
