"""BIRD as a running program: its control socket, what it answers there, and the names of our sessions."""
