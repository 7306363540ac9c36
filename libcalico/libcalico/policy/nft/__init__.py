"""The rule IR as nftables: one table `inet calico` for both families.

`rules` renders policies and endpoints, `base` the fixed chains around them, `table` holds a whole table as a value
and writes the commands that turn one into another. Pure: what comes out is text for libnftables.

How a packet is judged: a base chain for the source endpoint's egress policy comes first, one for the destination's
ingress policy second. In nftables *accept ends only the base chain that it is in*, so Allow is simply `accept`, and
no mark carries verdicts from chain to chain. Only Pass needs a bit.
"""
