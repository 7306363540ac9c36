"""Wiring workloads up: what it means (`plan`), doing it (`attach`), and the CNI protocol on top (`cni`)."""
