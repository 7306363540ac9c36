"""One module for each format of vector file; see `tests/compat/contract.py`."""
