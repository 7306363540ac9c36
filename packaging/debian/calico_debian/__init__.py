"""Builds the Debian packages: the runtime's tree in parts, units, configuration, scripts; packed by nfpm.

`python -m calico_debian --out FOLDER [--version VERSION]` (packaging/README.md)."""
