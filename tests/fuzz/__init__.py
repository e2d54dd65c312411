"""Damaged and hostile input for every reader: seeded, a minute in CI, hours with `make fuzz`
(docs/reliability.md)."""
