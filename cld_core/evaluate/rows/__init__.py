"""Kinds of rows, one file each (`registry.ROWS`)."""
