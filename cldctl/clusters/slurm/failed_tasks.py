"""What srun says about the tasks of a step that ended badly: "srun: error: n2: task 1: Killed". Pure."""

import re
from collections.abc import Iterator

from cldctl.clusters.records import EndedTask

_LINE = re.compile(r"^srun: error: (?P<node>[\w.-]+): tasks? (?P<tasks>[0-9,-]+): (?P<how>.+?)\s*$", re.MULTILINE)
_CODE = re.compile(r"Exited with exit code ([0-9]{1,3})")
# What srun itself sends to the tasks that are left.
_BY_SRUN = "Terminated"
# No step has more.
_MOST_TASKS = 1_000_000


def parse(log: str) -> tuple[EndedTask, ...]:
    """The tasks that ended badly, by line and number: in about the order in which they ended."""
    return tuple(
        EndedTask(rank, found["node"], found["how"], int(code[1]) if code else None)
        for found in _LINE.finditer(log)
        if not found["how"].startswith(_BY_SRUN)
        for code in [_CODE.match(found["how"])]
        for rank in _numbers(found["tasks"])
    )


def _numbers(tasks: str) -> Iterator[int]:
    """The numbers of "0,2-4"."""
    for part in tasks.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            yield from range(int(first), min(int(last or first), int(first) + _MOST_TASKS) + 1)
