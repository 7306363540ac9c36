"""The calculation graph: from the whole datastore to what concerns this host. Pure and synchronous.

`graph` dispatches by kind to nodes, each of which takes objects by `update` and gives changes by `flush`: `policies`
decides which policies act on which local endpoint and in what order, `profiles` knows who names them, `active` which
rules are in use; `endpoints` reads endpoints and network sets, `sets` keeps the members of IP sets; `routes` knows the
way to other hosts' blocks; `settings` ranks configurations. `outbox` coalesces what goes out, `report` remembers what
is wrong with single objects. `cluster` puts a whole dump through it and tells as text what hosts would enforce.
Output depends on the current state only, never on the history that led to it.
"""
