"""Damaged and hostile input for every reader: a minute in CI, hours with `make fuzz`."""
