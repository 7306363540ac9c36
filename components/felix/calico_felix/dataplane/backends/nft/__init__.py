"""nftables: `ruleset` is the wanted table, `programmer` writes it, `refusals` finds what the kernel refuses of it."""
