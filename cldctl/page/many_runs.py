"""The page of many runs: an index over those of a folder or a group, or several that are compared."""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from cld_core.config.loader import to_yaml_line
from cld_core.config.schema import leaves
from cld_core.errors import CldError
from cld_core.files import write_text
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cld_core.sanitize import local_time, one_line, printable
from cld_core.version import __version__
from cldctl.evals import compare
from cldctl.runs.selection import command
from cldctl.runs.status import RunStatus, said
from cldctl.show.console import count, number
from cldctl.show.evaluations import average_columns
from cldctl.show.runs import states
from cldctl.show.tables import usage_line

from . import one_run
from .curves import LOSS, Points, read
from .document import Section, chart, code, colour_of, gallery, render, table, text

# The first runs, whose curves are drawn: so many look different.
_DRAWN = 24
# What a loss is of, and the keys of that which make no other loss: how data are read, and what numerics need.
_SECTIONS, _SAME = ("data", "sde", "objective"), ("data.cache", "data.threads", "sde.numerical_eps")


def write_pages(
    rows: Sequence[RunStatus], begun: Callable[[int, int, str], object], *, follow: bool = False
) -> tuple[int, dict[str, str]]:
    """Write the pages of runs that are missing or out of date; whatever is wrong with one run spares the others.

    Args:
        begun: called before each run with its number, from 0, how many there are, and its name.
        follow: also read folders that links lead out of the run to.

    Returns:
        How many were written, and why others were not, by the name of the run.
    """
    written, problems = 0, {}
    for place, row in enumerate(rows):
        begun(place, len(rows), row.name)
        run = RunFolder(row.path)
        try:
            if not one_run.is_up_to_date(run, row, follow=follow):
                require_may_change(run.path, "Its page was not written")
                write_text(one_run.page_of(run), one_run.page(run, follow=follow))
                written += 1
        except Exception as error:
            problems[row.name] = said(error)
    return written, problems


def page(
    title: str,
    rows: Sequence[RunStatus],
    folder: Path,
    *,
    groups: Sequence[Group] = (),
    which: str | None = None,
    notes: Iterable[str] = (),
    follow: bool = False,
) -> str:
    """Some runs on one page: results in one table, averages over seeds, losses over each other.

    Args:
        folder: where the page will be, from which its links are taken.
        groups: those of which the results are averaged.
        which: what `cldctl report` takes for an index over these runs. None for a comparison, which also shows what
            differs, samples side by side, and the other curves.
        follow: also read folders that links lead out of a run to.
    """
    runs = [RunFolder(row.path) for row in rows]
    curves = {run.name: read(run, follow=follow) for run in runs[:_DRAWN]}
    hint, missing = "", sum(not one_run.has_page(run) for run in runs)
    if which is not None and missing:
        write_all = code(command(f"report {which} --pages", runs[0]))
        hint = Markup(f"Without a page yet: {missing}. {write_all} writes those that are missing or out of date.")
    pills = [(words.lower(), colour_of(words.rpartition(" ")[2])) for words in states(rows).split(", ") if words]
    pictures = (gallery(run, follow=follow, most=1)[:1] for run in runs if which is None)
    sections = [
        Section("", map(text, notes)),
        Section("Best results", [_table(rows, folder) or text("There are no runs."), text(hint)]),
        Section("Averages over seeds", _averages(groups)),
        Section("Loss", _losses(runs, curves)),
        Section("What differs", _differences(runs) if which is None else ()),
        Section("Samples", (it for found in pictures for it in found)),
        Section("Curves", one_run.other_charts(curves) if which is None else ()),
    ]
    return render(title, f"cldctl {__version__}", pills, sections)


def _table(rows: Sequence[RunStatus], folder: Path) -> Markup:
    """The runs with their best results, and of how many samples or points these are."""
    results = [
        {it.quantity.label: f"{one_run.value_of(it)}{it.of and f' ({it.of})'}" for it in compare.best_of(found)}
        for found in (one_run.readable_results(RunFolder(row.path)) for row in rows)
    ]
    labels = dict.fromkeys(label for found in results for label in found)
    keys = dict.fromkeys(key for row in rows for key in row.sweep)
    columns: dict[str, Sequence[str]] = {
        "run": [_name(row, folder) for row in rows],
        "state": [row.state.lower() for row in rows],
        **{key: [one_line(row.sweep.get(key, "-"), 60) for row in rows] for key in keys},
        "step": [count(row.step) + (f" of {count(row.steps)}" if row.steps is not None else "") for row in rows],
        "loss": [number(row.shown_loss) for row in rows],
        **{label: [found.get(label, "-") for found in results] for label in labels},
        "attempts": [str(len(row.attempts)) for row in rows],
        "used": [usage_line(row.usage).partition(": ")[0] or "-" for row in rows],
        "updated": [local_time(row.heard_of) for row in rows],
        "tags and note": [" ".join([*row.tags, one_line(row.note or "", 120)]).strip() or "-" for row in rows],
    }
    return table("A name leads to the page of the run, or to the command that writes it", columns)


def _name(row: RunStatus, folder: Path) -> Markup:
    """A name with a relative address of the page of its run. A colon in it must not begin a scheme."""
    run, name = RunFolder(row.path), printable(row.name)
    if one_run.has_page(run):
        link = quote(os.path.join(".", os.path.relpath(one_run.page_of(run), folder)))
        return Markup('<a href="{}">{}</a>').format(link, name)
    write = code(command(f"report {shlex.quote(row.name)}", run))
    return Markup("<details><summary>{}</summary>{}</details>").format(name, write)


def _losses(runs: Sequence[RunFolder], curves: Mapping[str, Mapping[str, Points]]) -> Iterator[Markup]:
    """The losses over each other: a chart for all runs whose data, diffusion and objective are the same."""
    groups: dict[tuple[str, frozenset[str]], dict[str, Points]] = {}
    for run in runs:
        if LOSS in curves.get(run.name, {}):
            # A run has its colour in all charts.
            members = groups.setdefault(_settings(run), dict.fromkeys(curves, ()))
            members[run.name] = curves[run.name][LOSS]
    for (names, settings), members in groups.items():
        shared = frozenset.intersection(*(others for name, others in groups if name == names))
        yield chart(", ".join([names, *sorted(settings - shared)]), members)
    if len(groups) > 1:
        yield text("Losses can be compared, and share a chart, if data, diffusion and objective are the same.")
    if len(runs) > _DRAWN:
        yield text(f"Curves are those of the first {_DRAWN} runs.")


def _settings(run: RunFolder) -> tuple[str, frozenset[str]]:
    """What the loss of a run is of: the names of data, diffusion and objective, and their other keys with values."""
    try:
        recipe = run.recipe().to_dict()
    except (CldError, OSError):
        return f"{run.name}, recipe cannot be read", frozenset()
    keys = leaves({section: recipe[section] for section in _SECTIONS})
    settings = {f"{key.partition('.')[2]}={to_yaml_line(value)}" for key, value in keys.items() if key not in _SAME}
    return ", ".join(recipe[section]["name"] for section in _SECTIONS), frozenset(settings)


def _differences(runs: Sequence[RunFolder]) -> Iterator[Markup]:
    """The keys in which the recipes differ, and the versions of the code."""
    recipes: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        try:
            commit = str((run.identity().get("git") or {}).get("commit"))
            recipes[run.name] = {**run.recipe().to_dict(), "commit": commit}
        except (CldError, OSError) as error:
            yield text(f"{run.name}: its recipe cannot be read: {one_line(error)}", "warning")
    yield table("Keys of the recipes", one_run.differing(recipes)) or text("The recipes are the same.")


def _averages(groups: Sequence[Group]) -> Iterator[Markup]:
    """A line for each choice of the keys besides the seed, as `cldctl compare` has it."""
    lines: list[compare.Line] = []
    left_out: dict[str, Exception] = {}
    for group in groups:
        lines += compare.lines_of_group(group, spare=lambda run, error: left_out.update({run.name: error}))[0]
    yield table(compare.AVERAGES[:1].upper() + compare.AVERAGES[1:], average_columns(lines))
    for name, error in left_out.items():
        yield text(f"{name} is left out, because it cannot be read: {one_line(error)}", "warning")
