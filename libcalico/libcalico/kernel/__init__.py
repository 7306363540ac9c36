"""The kernel: netlink, network namespaces, nftables, connection tracking, settings. The only room that touches it."""
