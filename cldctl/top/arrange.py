"""Which runs are listed, and in which order: alive ones first, newest first, those of a group together."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cldctl.runs.selection import Selection
from cldctl.runs.state import ALIVE, OVER, WAITS
from cldctl.runs.status import RunStatus

# Keys that show runs of some states only, what they are called, and the states; none for all.
FILTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "0": ("all", ()),
    "1": ("alive", ALIVE),
    "2": ("running", ("RUNNING",)),
    "3": ("waiting", WAITS),
    "4": ("stopped", ("STOPPED", "CANCELLED")),
    "5": ("failed", ("FAILED", "LOST")),
    "6": ("finished", ("FINISHED",)),
}


@dataclass(frozen=True)
class GroupLine:
    """The heading of a group of several runs; ``rows`` are those of its runs that are listed."""

    name: str
    rows: tuple[RunStatus, ...]
    is_folded: bool

    @property
    def key(self) -> tuple[str, str]:
        return "group", self.name

    @property
    def is_alive(self) -> bool:
        return any(row.state not in OVER for row in self.rows)


@dataclass(frozen=True)
class RunLine:
    """A run; ``is_member`` below the heading of its group."""

    row: RunStatus
    is_member: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return "run", self.row.name


Line = GroupLine | RunLine


def arranged(rows: Iterable[RunStatus], turned: Collection[str] = ()) -> list[Line]:
    """The lines of a list of runs.

    Args:
        turned: names of groups that somebody has folded or unfolded. The others are folded once all their runs are
            over.
    """
    by_name = sorted(rows, key=lambda row: row.name)
    newest = sorted(by_name, key=lambda row: (row.state not in OVER, row.created or 0.0), reverse=True)
    groups: dict[str, list[RunStatus]] = {}
    for row in newest:
        if row.group is not None:
            groups.setdefault(row.group, []).append(row)
    lines: list[Line] = []
    for row in newest:
        members = groups.get(row.group, []) if row.group is not None else []
        if len(members) < 2:
            lines.append(RunLine(row))
        elif row is members[0]:
            lines += _of_group(members[0].group or "", members, turned)
    return lines


def _of_group(name: str, rows: Sequence[RunStatus], turned: Collection[str]) -> list[Line]:
    is_over = all(row.state in OVER for row in rows)
    is_folded = is_over != (name in turned)
    heading = GroupLine(name, tuple(rows), is_folded)
    return [heading, *([] if is_folded else [RunLine(row, is_member=True) for row in rows])]


def matching(rows: Iterable[RunStatus], key: str, words: str) -> list[RunStatus]:
    """The runs of the states of a key of `FILTERS`, in which each of the words is found.

    A word is looked for in name, group, tags, note, user, state and reason, in any case.
    """
    chosen = Selection(states=frozenset(FILTERS[key][1])).of(rows)
    wanted = words.lower().split()
    return [row for row in chosen if all(word in _text(row) for word in wanted)] if wanted else chosen


def _text(row: RunStatus) -> str:
    parts = (row.name, row.group, *row.tags, row.note, row.user, row.state, row.reason)
    return " ".join(part for part in parts if part).lower()


def counts(rows: Iterable[RunStatus]) -> list[tuple[str, int]]:
    """How many runs are in each state, those that are alive first."""
    numbers = Counter(row.state for row in rows)
    order = (*ALIVE, "FAILED", "LOST", "STOPPED", "CANCELLED", "FINISHED")
    return [(state, numbers[state]) for state in order if numbers[state]]
