"""gRPC: our node API (`node.proto`) and the etcd v3 API (`etcd/`), with the stubs compiled from them.

`channel` opens connections and servers on UNIX sockets. `python -m libcalico.rpc.generate` compiles the protos anew.
"""
