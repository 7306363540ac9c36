"""Loads the library before pytest names its test modules after folders: `libcalico/` holds a package `libcalico`."""

import libcalico  # noqa: F401
