"""Metrics, one file each (`registry.METRICS`). They load torch and numpy only when they compute."""
