"""IP address management: pools are cut into blocks, a host owns blocks and hands out their addresses (spec/ipam.md).

`model` has the stored values, `plan` decides (pure: values in, values out), `service` reads, plans and commits.
"""
