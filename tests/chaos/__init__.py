"""Runs under kills, stopped processes, broken disks and clocks (README.md)."""
