"""What the tests of every distribution share, and a script's tests may use: worlds, fakes and fixtures.

No program imports it.
"""
