"""The datastore: a contract, two implementations (etcd, memory), typed v3 objects on top, and the syncer.

`contract` is what everything else speaks; `etcd` is the only module that knows etcd.
"""
