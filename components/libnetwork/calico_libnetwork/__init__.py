"""`dcos-calico-libnetwork-plugin`: Docker's network driver `calico` and its IPAM drivers (spec/libnetwork.md)."""
