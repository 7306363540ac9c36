"""The sources of the compiled modules; imported from here they are the pure-Python twins."""
