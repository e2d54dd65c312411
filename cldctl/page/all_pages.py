"""The pages of the runs of an index: those that are missing, and those that are older than their runs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cldctl.runs import survey
from cldctl.runs.index import Found, Index
from cldctl.runs.status import RunStatus
from cldctl.runs.tried import said

from . import freshness, one_run


@dataclass(frozen=True)
class Written:
    """How many pages were written, and why others were not, by the name of the run."""

    number: int
    problems: dict[str, str]


def rows_of(found: Found, group: Group | None) -> list[RunStatus]:
    """What was found of the runs of a group, or of all runs."""
    if group is None:
        return list(found.rows)
    members = {run.name for run in group.runs()}
    return [row for row in found.rows if row.name in members]


def write(
    root: Path, begun: Callable[[int, int, str], object], *, group: Group | None = None, follow: bool = False
) -> Written:
    """Write what is missing or out of date; whatever is wrong with one run spares the others.

    Args:
        root: the folder of the runs.
        begun: called before each run with its number, from 0, how many there are, and its name.
        group: only the runs of this group; None for all runs.
        follow: also read folders that links lead out of a run to.
    """
    number, problems = 0, {}
    rows = rows_of(Index(root).look(max_age_s=survey.TO_LOOK_S), group)
    for place, row in enumerate(rows):
        begun(place, len(rows), row.name)
        run = RunFolder(row.path)
        try:
            if freshness.is_up_to_date(run, row, follow=follow):
                continue
            require_may_change(run.path, "Its page was not written")
            freshness.write(run, partial(one_run.page, run, follow=follow))
            number += 1
        except Exception as error:
            problems[row.name] = said(error)
    return Written(number, problems)
