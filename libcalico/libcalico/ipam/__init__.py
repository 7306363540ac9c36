"""IP address management: pools are cut into blocks, a host owns blocks and hands out their addresses (spec/ipam.md).

`plan` decides (pure: values in, values out), `transaction` reads and commits what plans ask for, `service` has
the calls; their plans are in `assignment`, `release`, `affinity` and `usage`. Stored values: `model.ipam_data`.
"""
