"""How objects are printed: tables, YAML, JSON, templates. Works on JSON-shaped objects only."""
