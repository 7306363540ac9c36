"""Stubs of the etcd v3 API, compiled from our own minimal proto. Only `libcalico.datastore.etcd` uses them."""
