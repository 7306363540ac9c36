"""What lets people look inside: logging, figures, metrics and health."""
