"""What a script or a command does with the cluster: typed objects, above the datastore and IPAM.

`objects` reads and writes resources, `blocking` is `libcalico.Client`, `connection` the settings by which a datastore
is found; `initialise`, `pool_rules`, `policy_names` and `node_removal` are what writing some of the objects implies.
"""
