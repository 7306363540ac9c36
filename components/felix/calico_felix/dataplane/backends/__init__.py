"""How policies get into the kernel: one package for each packet filter. Each renders for the interfaces of `Owners`."""
