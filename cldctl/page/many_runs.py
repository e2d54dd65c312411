"""The page of many runs: an index over those of a folder or a group, or several that are compared."""

import itertools
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from cld_core.errors import CldError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cld_core.texts import local_time, one_line, printable
from cldctl.evals import averages
from cldctl.hints import command
from cldctl.runs import survey
from cldctl.runs.index import Found, Index
from cldctl.runs.status import RunStatus, said, status_or_reason
from cldctl.show.evaluations import average_columns
from cldctl.show.format import count, number
from cldctl.show.runs import states
from cldctl.show.usage import usage_line

from . import freshness, one_run
from .curves import LOSS, Points, read
from .document import Section, code, colour_of, render, table, text
from .figures import gallery, overlay
from .results import best_of, findings_of

# The newest runs that are looked through for curves, and the curves of a chart.
_LOOKED_AT, _CURVES = 40, 12
# How data are read, which changes nothing.
_READING = ("cache", "threads")


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
            if not freshness.is_up_to_date(run, row, follow=follow):
                require_may_change(run.path, "Its page was not written")
                freshness.write(run, partial(one_run.page, run, follow=follow))
                written += 1
        except Exception as error:
            problems[row.name] = said(error)
    return written, problems


def look(root: Path, group: Group | None = None) -> Found:
    """What is in a folder of runs; of a group, its runs alone."""
    found = Index(root).look(max_age_s=survey.TO_LOOK_S)
    if group is None:
        return found
    members = {run.name for run in group.runs()}
    return Found([row for row in found.rows if row.name in members], found.answers, {})


def rows_of(runs: Sequence[RunFolder]) -> list[RunStatus]:
    """How some runs stand, in their order."""
    answers = survey.of_runs(runs, max_age_s=survey.TO_LOOK_S)
    return [status_or_reason(run, answers) for run in runs]


def index(root: Path, found: Found, folder: Path, *, group: Group | None = None, follow: bool = False) -> str:
    """The index over the runs of a folder or a group, the newest first.

    Args:
        folder: where the page will be, from which its links are taken.
        follow: also read folders that links lead out of a run to.
    """
    rows = found.rows[::-1]
    which = "--all" if group is None else shlex.quote(group.name)
    missing = sum(not _link(row, folder) for row in rows)
    hint = Markup("Without a page yet: {}. {} writes those that are missing or out of date.")
    write_all = code(command(f"report {which} --pages", RunFolder(root / "any")))
    notes = [
        *([text(hint.format(missing, write_all))] if missing else []),
        *([text(found.answers.remark, "warning")] if found.answers.remark else []),
        *(text(f"{name}: {reason}") for name, reason in found.closed.items()),
    ]
    return _render(
        f"Runs in {root.absolute().name}" if group is None else f"Runs of the group {group.name}",
        rows,
        [
            Section("", [text(str(root.absolute()))]),
            Section("Loss (smoothed)", _losses(rows, _curves_of(rows, follow))),
            Section("Runs, newest first", [_table(rows, folder), *notes] if rows else [text("There are no runs.")]),
            Section("Averages over seeds", list(_averages([group] if group is not None else []))),
        ],
    )


def comparison(rows: Sequence[RunStatus], groups: Sequence[Group], folder: Path, *, follow: bool = False) -> str:
    """Some runs on one page: results in one table, what differs, curves over each other, and samples side by side.

    Args:
        groups: those of which the results are averaged.
        folder: where the page will be, from which its links are taken.
        follow: also read folders that links lead out of a run to.
    """
    curves = _curves_of(rows, follow)
    pictures = [gallery(RunFolder(row.path), follow=follow)[:1] for row in rows]
    return _render(
        f"{len(rows)} runs compared",
        rows,
        [
            Section("Results", [_table(rows, folder)]),
            Section("What differs", list(_differences([RunFolder(row.path) for row in rows]))),
            Section("Averages over seeds", list(_averages(groups))),
            Section("Loss (smoothed)", _losses(rows, curves)),
            Section("Samples", list(itertools.chain.from_iterable(pictures))),
            Section("Curves", list(_overlaid(curves))),
        ],
    )


def _render(title: str, rows: Sequence[RunStatus], sections: Sequence[Section]) -> str:
    pills = [(words.lower(), colour_of(words.rpartition(" ")[2])) for words in states(rows).split(", ") if words]
    return render(title, freshness.mark(), pills, sections)


def _curves_of(rows: Sequence[RunStatus], follow: bool) -> dict[str, dict[str, Points]]:
    return {row.name: read(RunFolder(row.path), follow=follow) for row in rows[:_LOOKED_AT]}


def _table(rows: Sequence[RunStatus], folder: Path) -> Markup:
    """The runs with their best results, and of how many samples or points these are."""
    best = [best_of(findings_of(RunFolder(row.path)) if row.evals else []) for row in rows]
    results = [{it.quantity.label: f"{it.text}{it.of and f' ({it.of})'}" for it in found} for found in best]
    labels = dict.fromkeys(itertools.chain.from_iterable(results))
    keys = dict.fromkeys(itertools.chain.from_iterable(row.sweep for row in rows))
    columns: dict[str, Sequence[str]] = {
        "run": [_name(row, folder) for row in rows],
        "state": [row.state.lower() for row in rows],
        **{key: [one_line(row.sweep.get(key, "-"), 60) for row in rows] for key in keys},
        "step": [count(row.step) + (f" of {count(row.steps)}" if row.steps is not None else "") for row in rows],
        "loss": [number(row.shown_loss) for row in rows],
        **{label: [found.get(label, "-") for found in results] for label in labels},
        "attempts": [str(len(row.attempts)) for row in rows],
        "used": ["-" if row.usage is None else usage_line(row.usage).partition(": ")[0] for row in rows],
        "updated": [local_time(row.heard_of) for row in rows],
        "tags and note": [" ".join([*row.tags, one_line(row.note or "", 120)]).strip() or "-" for row in rows],
    }
    return table("A name leads to the page of the run, or to the command that writes it", columns)


def _name(row: RunStatus, folder: Path) -> Markup:
    name, link = printable(row.name), _link(row, folder)
    if link:
        return Markup('<a href="{}">{}</a>').format(link, name)
    write = code(command(f"report {shlex.quote(row.name)}", RunFolder(row.path)))
    return Markup("<details><summary>{}</summary>{}</details>").format(name, write)


def _link(row: RunStatus, folder: Path) -> str:
    """A relative address of a run's page; empty if there is none. A colon in a name must not begin a scheme."""
    file = freshness.page_of(RunFolder(row.path))
    if file.is_symlink() or not file.is_file():
        return ""
    return quote(os.path.join(".", os.path.relpath(file, folder)))


def _losses(rows: Sequence[RunStatus], curves: Mapping[str, Mapping[str, Points]]) -> list[Markup]:
    """The losses over each other: a chart for all runs whose data, diffusion and objective are the same."""
    groups: list[tuple[dict[str, Any], dict[str, Points]]] = []
    for row in (row for row in rows[:_LOOKED_AT] if curves[row.name].get(LOSS)):
        settings = _settings(RunFolder(row.path))
        alike = (members for other, members in groups if settings and other == settings)
        if (group := next(alike, None)) is None:
            groups.append((settings, group := {}))
        group[row.name] = curves[row.name][LOSS]
    known = [settings for settings, _ in groups if settings]
    keys, *values = one_run.differing({str(place): settings for place, settings in enumerate(known)}).values()
    charts = []
    for settings, members in groups:
        names = [section["name"] for section in settings.values()] or [*members, "recipe cannot be read"]
        own = [
            f"{key.partition('.')[2]}={value}"
            for key, value in zip(keys, values[known.index(settings)] if settings else (), strict=False)
            if not key.endswith(".name")
        ]
        charts.append(_overlay(", ".join([*names, *own]), members))
    notes = [f"Of the newest {_LOOKED_AT} runs."] if len(rows) > _LOOKED_AT and groups else []
    if len(groups) > 1:
        notes.append("Losses can be compared, and share a chart, if data, diffusion and objective are the same.")
    if (left_out := sum(max(len(members) - _CURVES, 0) for _, members in groups)) > 0:
        notes.append(f"{left_out} more not drawn: a chart shows {_CURVES} runs.")
    return [*charts, *([text(" ".join(notes))] if notes else [])]


def _settings(run: RunFolder) -> dict[str, Any]:
    """What the loss of a run is of; empty if its recipe cannot be read."""
    try:
        recipe = run.recipe().to_dict()
    except (CldError, OSError):
        return {}
    data = {key: value for key, value in recipe["data"].items() if key not in _READING}
    return {"data": data, "sde": recipe["sde"], "objective": recipe["objective"]}


def _overlay(title: str, curves: Mapping[str, Points]) -> Markup:
    return overlay(title, dict(itertools.islice(curves.items(), _CURVES)))


def _overlaid(curves: Mapping[str, Mapping[str, Points]]) -> Iterator[Markup]:
    """The other curves of the training, a chart for each that several runs have and that is not constant."""
    tags = {tag for found in curves.values() for tag in found if tag.startswith(("train/", "periodic/"))}
    for tag in sorted(tags - {LOSS}, key=one_run.place_of):
        members = {name: found[tag] for name, found in curves.items() if found.get(tag)}
        if len(members) > 1 and not all(map(one_run.is_constant, members.values())):
            yield _overlay(one_run.words_of(tag), members)


def _differences(runs: Sequence[RunFolder]) -> Iterator[Markup]:
    """The keys in which the recipes differ, and the versions of the code."""
    recipes: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        try:
            recipes[run.name] = {
                **run.recipe().to_dict(),
                "commit": str((run.identity().get("git") or {}).get("commit")),
            }
        except (CldError, OSError) as error:
            yield text(f"{run.name}: its recipe cannot be read: {one_line(error)}", "warning")
    columns = one_run.differing(recipes)
    yield table("Keys of the recipes", columns) if columns["key"] else text("The recipes are the same.")


def _averages(groups: Sequence[Group]) -> Iterator[Markup]:
    """A line for each choice of the keys besides the seed, as `cldctl compare` has it."""
    left_out: dict[str, Exception] = {}
    lines = [
        line
        for group in groups
        for line in averages.of_group(group, spare=lambda run, error: left_out.update({run.name: error}))[0]
    ]
    if lines:
        yield table(averages.RULE[:1].upper() + averages.RULE[1:], average_columns(lines))
    for name, error in left_out.items():
        yield text(f"{name} is left out, because it cannot be read: {one_line(error)}", "warning")
