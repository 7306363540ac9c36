"""The command line of Calico: upstream's words, exit codes and output, on the etcd datastore.

Source: spec/calicoctl.md. `main` parses and dispatches; `commands` holds one module a command; `output` prints.
"""
