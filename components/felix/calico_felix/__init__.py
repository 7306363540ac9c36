"""The node agent: watches the datastore, computes what concerns this host, and keeps the kernel equal to it.

`calc` computes (pure), `dataplane` programs, `node_api` answers the neighbours on this host, `daemon` wires them.
"""
