"""The pages of the runs of an index: those that are missing, and those that are older than their runs."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import CldError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.atomic import write_text
from cld_core.run.groups import Group
from cld_core.texts import one_line
from cldctl.runs import survey
from cldctl.runs.index import Found, Index
from cldctl.runs.status import RunStatus

from . import one_run

# The states that a run enters only with a line in its ledger. Into the others, a scheduler alone can take it.
_WRITTEN = ("FINISHED", "CANCELLED")


@dataclass(frozen=True)
class Written:
    """How many pages were written, and why others were not, by the name of the run."""

    number: int
    problems: dict[str, str]


def page_of(run: RunFolder) -> Path:
    """Where `cldctl report` writes the page of a run."""
    return run.path / "report.html"


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
            if _is_up_to_date(run, row):
                continue
            require_may_change(run.path, "Its page was not written")
            write_text(page_of(run), one_run.page(run, follow=follow))
            number += 1
        except Exception as error:
            problems[row.name] = str(error) if isinstance(error, CldError) else one_line(error) or type(error).__name__
    return Written(number, problems)


def _is_up_to_date(run: RunFolder, row: RunStatus) -> bool:
    file = page_of(run)
    if row.state not in _WRITTEN or file.is_symlink() or not file.is_file():
        return False
    made = file.stat().st_mtime
    return all(os.stat(source).st_mtime < made for source in _sources(run) if source.exists())


def _sources(run: RunFolder) -> Iterator[Path]:
    """What a page is made of, as far as it may change once a run is over; after an upgrade, all pages are old."""
    here = Path(__file__)
    yield from (here, *here.parent.joinpath("templates").iterdir())
    yield from (run.ledger.path, run.recipe_file, run.progress_file, run.samples, run.evals)
    for folder in (run.tensorboard, run.evals, run.samples):
        yield from folder.glob("*")
    for name in ("report.json", "jobs.jsonl", "shards"):
        yield from run.evals.glob(f"*/{name}")
