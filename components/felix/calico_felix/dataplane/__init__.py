"""Keeps the kernel equal to what the calculation graph says.

`ruleset` turns messages into one nftables table as a value; `routes` and `tunnels` drive route netlink; `loop` applies
everything: policy first, in one transaction, then routes, tunnels and interface settings.
"""
