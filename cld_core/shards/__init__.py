"""Sharded work: rows that are a function of their index, computed in pieces by tasks that may be interrupted.

The package knows no metric. A kind of work (`KINDS`) says which rows there are, how they are computed and what becomes
of them; identity, division into shards, completeness, resuming and merging are here. Importing it loads no torch or
numpy.
"""

from .kinds import KINDS, open_work
from .request import Request
from .work import Computer, Task, Work

__all__ = ["KINDS", "Computer", "Request", "Task", "Work", "open_work"]
