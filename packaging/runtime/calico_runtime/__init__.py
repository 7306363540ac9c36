"""Builds the Python runtime that our packages carry: interpreter, libraries, our distributions and what they need.

`python -m calico_runtime --out TREE --prefix WHERE_IT_WILL_STAND` (packaging/README.md). Standard library only, so
that it runs before anything is installed."""
