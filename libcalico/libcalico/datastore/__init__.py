"""The datastore: a contract, its implementations (etcd over gRPC, etcd's HTTP gateway, memory), and the syncer.

`contract` is what everything else speaks; `settings` is the one table of how etcd is reached.
"""
