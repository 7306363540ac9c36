"""Names and paths that the programs of a host agree on.

In upstream's spelling (spec/node-startup.md, spec/felix.md)."""

from __future__ import annotations

STATE_DIRECTORY = "/var/lib/calico"
NODENAME_FILE = f"{STATE_DIRECTORY}/nodename"
"""This host's name in the datastore: start-up writes it, the agent and the CNI plug-in read it."""
SHUTDOWN_FILE = f"{STATE_DIRECTORY}/shutdownTS"
"""When this host was shut down on purpose: `calico-node -shutdown` writes it, start-up removes it."""
MTU_FILE = f"{STATE_DIRECTORY}/mtu"
"""The MTU of workloads in octets: the agent writes it, the CNI plug-in reads it."""
NODE_SOCKET = "/run/calico/node.sock"
"""Where the agent serves the node API."""
INTERFACE_PREFIX = "cali"
"""What the host's end of a workload's interface is called begins with this."""
VXLAN_DEVICES = {4: "vxlan.calico", 6: "vxlan-v6.calico"}
"""The tunnel device by family."""
IPIP_DEVICE = "tunl0"
"""The kernel makes it with its module ipip, which cannot name it otherwise."""
CLOSED = "projectcalico.org/closed"
"""Annotation of an endpoint that lets no packet through yet: an engine has not said which labels it has."""
BUILT_IN_PROFILE = "projectcalico-default-allow"
"""The profile that is always there and allows everything; no datastore holds it."""
