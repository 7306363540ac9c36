"""The node agent: watches the datastore, computes what concerns this host, and keeps the kernel equal to it.

`follower` passes the datastore's changes through the graph (`libcalico.calc`, pure) to `dataplane`, which programs;
`node_api` answers the neighbours on this host, and `daemon` wires the parts.
"""
