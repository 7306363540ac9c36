"""What a script or a command does with the cluster: typed objects, above the datastore and IPAM.

`objects` reads and writes resources: `facts` reads what a write depends on, `checks` says what is wrong with it.
`blocking` is `libcalico.Client` and `ipam` its addresses, `connection` the settings by which a datastore is found;
`initialise`, `pool_rules`, `peer_rules`, `policy_names` and `node_removal` are what writing some objects implies.
"""
