"""What BIRD 2 on a node is configured with: a value (`routing`), its sessions (`peers`), their text (`render`)."""
