"""What of a user's object is refused, and in which words (spec/resources.md): plain functions that yield `FieldError`.

`objects` has the entry, `validate`; `rules`, `pools` and `felix` the kinds with rules of their own, `limits` how long
and how many, `common` the checks that several share, `hints` what would be right.
"""
