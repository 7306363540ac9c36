"""What lets people look inside: logging, metrics, health, and the debug interface."""
