"""The calculation graph: from the whole datastore to what concerns this host. Pure and synchronous.

`graph` dispatches by kind; `policies` decides which policies act on which local endpoint and in what order; `sets`
keeps the members of IP sets; `routes` knows the way to other hosts' blocks; `outbox` coalesces what goes out. Output
depends on the current state only, never on the history that led to it.
"""
