"""The index over the runs of a folder: their losses over each other, and a table that leads to their pages."""

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cld_core.run import RunFolder
from cld_core.run.groups import Group, values_of
from cld_core.texts import local_time, one_line
from cldctl.hints import command
from cldctl.runs import survey
from cldctl.runs.index import Index
from cldctl.runs.status import RunStatus
from cldctl.show.format import count, number
from cldctl.show.tables import present_in
from cldctl.show.usage import usage_line

from . import averaged, results
from .all_pages import rows_of
from .freshness import mark, page_of
from .overlays import overlays
from .rendering import render


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run in the table.

    Attributes:
        link: leads to its page; empty if it has none.
        write: the command that writes its page.
    """

    name: str
    link: str
    write: str
    state: str
    cells: Sequence[str]


def page(root: Path, folder: Path, *, group: Group | None = None, follow: bool = False) -> str:
    """The whole page as text. It loads nothing, and links to nothing but the pages of the runs.

    Args:
        root: the folder of the runs.
        folder: where the page will be, from which its links are taken.
        group: only the runs of this group; None for all runs.
        follow: also read folders that links lead out of a run to.
    """
    found = Index(root).look(max_age_s=survey.TO_LOOK_S)
    rows = rows_of(found, group)[::-1]
    labels = [quantity.label for quantity in present_in([entry for row in rows for entry in row.evals])]
    states = [(state, sum(row.state == state for row in rows)) for state in dict.fromkeys(row.state for row in rows)]
    swept = {} if group is None else {row.name: values_of(RunFolder(row.path)) for row in rows}
    keys = list(dict.fromkeys(key for values in swept.values() for key in values))
    entries = [_row(row, [swept[row.name].get(key, "-") for key in keys], labels, folder) for row in rows]
    return render(
        "index.html",
        generator=mark(),
        title=f"Runs in {root.absolute().name}" if group is None else f"Runs of the group {group.name}",
        made=local_time(time.time()),
        folder=str(root.absolute()),
        states=[(state, f"{number:,} {state.lower()}") for state, number in states],
        remark=found.answers.remark or "",
        losses=overlays(rows, follow=follow),
        averages=None if group is None else averaged.averaged(group),
        headings=[*keys, "step", "loss", *labels, "attempts", "used", "updated", "tags and note"],
        right=[*([True] * len(keys)), True, True, *([True] * len(labels)), True, False, False, False],
        rows=entries,
        not_written=sum(not entry.link for entry in entries),
        write_all=command(
            f"report {'--all' if group is None else shlex.quote(group.name)} --pages", RunFolder(root / "any")
        ),
        closed={} if group is not None else found.closed,
    )


def _row(row: RunStatus, swept: Sequence[str], labels: Sequence[str], folder: Path) -> Row:
    run = RunFolder(row.path)
    asked = results.asked_of(run) if row.evals else {}
    best = {it.label: f"{it.value} {it.error}".strip() for it in results.best_of(row, asked, None)}
    about = " ".join([*row.tags, one_line(row.note or "", 120)]).strip()
    cells = [
        *(one_line(value, 60) for value in swept),
        count(row.step) + (f" of {count(row.steps)}" if row.steps is not None else ""),
        number(row.shown_loss),
        *(best.get(label, "-") for label in labels),
        str(len(row.attempts)),
        "-" if row.usage is None else usage_line(row.usage).partition(": ")[0],
        local_time(row.heard_of),
        about or "-",
    ]
    link, write = _link(page_of(run), folder), command(f"report {shlex.quote(row.name)}", run)
    return Row(name=row.name, link=link, write=write, state=row.state, cells=cells)


def _link(file: Path, folder: Path) -> str:
    """A relative address of a run's page; empty if there is none. A colon in a name must not begin a scheme."""
    if file.is_symlink() or not file.is_file():
        return ""
    return quote(os.path.join(".", os.path.relpath(file, folder)))
