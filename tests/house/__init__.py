"""The house's own rules, checked: sizes, broad excepts. `python -m tests.house`."""
