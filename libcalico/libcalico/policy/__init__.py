"""The one meaning of a policy: `compile` turns v3 policies and profiles into the IR of `ir`.

Two renderers read the IR: `nft` (kernel rules) and `matcher` (packets in memory, over `calico_native.rules`).
"""
