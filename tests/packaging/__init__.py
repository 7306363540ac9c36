"""Packages and units, as a host gets them."""
