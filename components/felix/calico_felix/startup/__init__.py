"""Preparing a host before its agent starts, and what else `calico-node` does once (spec/node-startup.md).

`sequence` has the steps in order; each step is idempotent: it reads first, and writes only what differs. `variables` is
the table of the environment's variables, `host` the only module here that asks the kernel.
"""
