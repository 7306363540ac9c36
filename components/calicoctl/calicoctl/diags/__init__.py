"""Diagnostics: what is collected of a node or a cluster, what looks wrong in it, and one archive without secrets.

`collect` runs what `node` and `cluster` list, side by side and within bounds; `secrets` is the one door to the archive
that `bundle` writes; `findings` says in plain words what looks wrong.
"""
