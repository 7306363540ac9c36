"""Keeps the kernel equal to what the calculation graph says.

`backends.nft` turns messages into one nftables table as a value; the managers drive route netlink; `loop` applies
everything: policy first, in one transaction, then tunnels, routes and interface settings.
"""
