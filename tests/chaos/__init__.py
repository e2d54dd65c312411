"""Faults by the hundred: runs under kills, stopped processes, broken disks and clocks
(README.md)."""
