"""The page of a run: how it stands, its results, samples and curves, how it was made; and that of
many runs."""

import contextlib
import math
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from cld_core import metrics as registry
from cld_core.config import Recipe, dump, load
from cld_core.config.loader import to_yaml_line
from cld_core.config.schema import leaves
from cld_core.config.shipped import recipes
from cld_core.config.train import EmaSpec
from cld_core.digests import digest
from cld_core.errors import CldError
from cld_core.evaluate.published import published
from cld_core.files import write_text
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.evaluations import Sweep
from cld_core.run.groups import Group
from cld_core.run.history import Attempt
from cld_core.sanitize import local_time, one_line, printable
from cld_core.version import __version__
from cldctl.evals.results import (
    AVERAGES,
    FLOOR,
    Line,
    Result,
    best_of,
    keys_of,
    lines_of,
    lines_of_group,
    results_of,
    rows,
)
from cldctl.runs.selection import command
from cldctl.runs.status import RunStatus, said
from cldctl.runs.why import Why, why
from cldctl.show.console import age, count, duration, keys_differ, number
from cldctl.show.evaluations import average_columns, cell_text, result_text, tuning_columns
from cldctl.show.runs import states
from cldctl.show.tables import attempt_columns, usage_line

from .curves import LOSS, Points, is_inside, read
from .document import Section, chart, code, colour_of, gallery, part, render, table, text

# The states that a run enters only with a line in its ledger. Into the others, a scheduler alone
# can take it.
_WRITTEN = ("FINISHED", "CANCELLED")
# The mark of a page is among its first bytes.
_HEAD_BYTES = 1024
# A smaller difference than this share of a value is none.
_CONSTANT = 0.005
# Losses by time, and the tags of results, which have charts of their own.
_BY_TIME, _EVALUATIONS = "train/loss_at_t/", "evaluation/"
# The states in which an error of the past is the news, and how many of its last words are shown.
_FAILED, _LAST_LINES = ("FAILED", "LOST", "STOPPED"), 8
_TUNED = "Root mean square distance from the network's own flow per coordinate, on held-out noise"
_WORDS = {
    "train/grad_norm": "norm of the gradient",
    "train/lr": "learning rate",
    "train/first_step_s": "seconds to the first step",
    "train/data_wait_s": "seconds waiting for data",
    "train/memory_gib": "memory, GiB",
    "train/steps_per_s": "steps per second",
    "periodic/nfe": "network evaluations of a sample",
}
# The first runs, whose curves are drawn: so many look different.
_DRAWN = 24
# What a loss is of, and the keys of that which make no other loss: how data are read, and what
# numerics need.
_LOSS_OF, _SAME = ("data", "sde", "objective"), ("data.cache", "data.threads", "sde.numerical_eps")


def page_of(run: RunFolder) -> Path:
    """Where `cldctl report` writes the page of a run."""
    return run.path / "report.html"


def has_page(run: RunFolder) -> bool:
    return page_of(run).is_file() and not page_of(run).is_symlink()


def is_up_to_date(run: RunFolder, row: RunStatus, *, follow: bool) -> bool:
    """Whether the page of a run is there and shows what ``row`` and the files of the run tell.

    Args:
        follow: whether the page is to show folders that links lead out of the run to.
    """
    if row.state not in _WRITTEN or row.is_evaluating or not has_page(run):
        return False
    with page_of(run).open("rb") as file:
        return _mark(row, _files(run), follow).encode() in file.read(_HEAD_BYTES)


def _mark(row: RunStatus, files: Sequence[Any], follow: bool) -> str:
    """What made a page, and a digest of what it shows."""
    states = [
        row.state,
        sorted((entry["id"], entry["state"]) for entry in (*row.evals, *row.tunings)),
    ]
    return f"cldctl {__version__} {digest([states, files, follow])}"


def _files(run: RunFolder) -> list[Any]:
    """Size and time of what a page is made of: the files of a run down to those of its
    evaluations."""
    found: list[Any] = []
    for file in sorted(
        file for pattern in ("*", "*/*", "*/*/*") for file in run.path.glob(pattern)
    ):
        with contextlib.suppress(OSError):
            if file != page_of(run) and not file.name.startswith("."):
                found.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    return found


def page(run: RunFolder, *, follow: bool = False) -> str:
    """The whole page as text; it refers to nothing outside.

    Args:
        follow: also read folders that links lead out of the run to.
    """
    # What changes after this is in the next page.
    files = _files(run)
    found = why(run)
    row, results = found.row, readable_results(run)
    recipe = shipped(run)
    best, curves, pictures = best_of(results), read(run, follow=follow), gallery(run, follow=follow)
    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    alone = [it for it in results if it.evaluation not in swept]
    evaluations = {"evaluation": [it.evaluation for it in alone], **result_columns(alone)}
    tunings = sorted(row.tunings, key=lambda it: (it["nfe"], it["checkpoint_step"], it["id"]))
    attempts = table("Attempts, oldest first", attempt_columns(found.attempts, local_time))
    loss = chart("loss", {"loss": curves.get(LOSS, [])}) or text("No loss has been recorded.")
    sections = [
        Section("", _verdict(found, best, follow), "lines"),
        Section(
            "", [*(_tile(it, recipe.name if recipe else "") for it in best), *_effort(row)], "tiles"
        ),
        Section("", [loss, *pictures[:1]], "pair"),
        Section("", [_outside(run, follow)]),
        Section(
            "Attempts",
            [_time_line(found), attempts] if attempts else [text("There are no attempts yet.")],
        ),
        Section(
            "Evaluations",
            [*_by_step(results), table("Evaluations, by step", evaluations), *_remarks(row)],
        ),
        *_sweeps(run, row),
        Section("Tuned samplers", [table(_TUNED, tuning_columns(tunings))]),
        Section("Curves", _curves(curves)),
        Section("Samples", pictures[1:], "pictures"),
        Section("Recipe", _recipe(run)),
        Section("Code and machines", [_facts(run, found)]),
    ]
    pills = [(row.state, colour_of(row.state)), *((tag, "dim") for tag in row.tags)]
    return render(run.name, _mark(row, files, follow), pills, sections)


def readable_results(run: RunFolder) -> list[Result]:
    """The results of all finished evaluations, by step; none if the recipe cannot be read."""
    with contextlib.suppress(CldError, OSError):
        return sorted(results_of(run), key=lambda it: (it.step, it.evaluation))
    return []


def result_columns(results: Sequence[Result]) -> dict[str, list[str]]:
    """The columns of a table of results."""
    truths = [
        "" if it.truth is None else f" (true entropy {it.truth:.{it.quantity.digits}f})"
        for it in results
    ]
    return {
        "step": [count(it.step) for it in results],
        "number": [it.quantity.label for it in results],
        "value": [value_of(it) + truth for it, truth in zip(results, truths, strict=True)],
        "of": [it.of or "-" for it in results],
        "network evaluations": [
            "-" if it.number.nfe is None else f"{it.number.nfe:,.0f}" for it in results
        ],
        "settings": [it.how for it in results],
    }


def value_of(it: Result) -> str:
    return result_text(it.quantity, it.number.value, it.number.stderr)


def floor_of(it: Result) -> str:
    """In words, what true samples reach; empty if the report does not have it."""
    if it.floor is None:
        return ""
    quantity = registry.quantity(f"{it.quantity.key}{FLOOR}")
    return f"{quantity.label} {result_text(quantity, it.floor.value, it.floor.stderr)}"


def _verdict(found: Why, best: Sequence[Result], follow: bool) -> Iterator[Markup]:
    """How the run stands, in a sentence, and what to type next."""
    row, run = found.row, RunFolder(found.row.path)
    sentence = f"{row.state.capitalize()}: {found.headline}"
    if row.state == "RUNNING" and row.eta_s is not None:
        sentence += f"; about {duration(row.eta_s)} left"
    if row.as_of is not None:
        sentence += f" (as of {age(row.as_of)}: its cluster does not answer)"
    sentence = sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."
    if best and row.state == "FINISHED":
        name, _, unit = best[0].quantity.label.partition(", ")
        value = f"{value_of(best[0])} {unit}".strip()
        floor = floor_of(best[0])
        sentence += f" Best {name}: {value}{floor and f' ({floor})'}."
    yield text(sentence, "verdict")
    if row.steps:
        bar = Markup('<progress max="{}" value="{}" aria-label="steps done"></progress>')
        yield bar.format(row.steps, min(row.step, row.steps))
    if row.state in _FAILED and (failed := found.failed) is not None:
        who = str(failed)
        reason = f": {one_line(failed.reason, 300)}" if failed.reason else "."
        yield text(f"{who[0].upper()}{who[1:]}{reason}", "red")
        if failed.file is not None and is_inside(run, failed.file.parent, follow=follow):
            yield part(
                "folded", summary="Last output", content="\n".join(failed.lines[-_LAST_LINES:])
            )
    # What the page is or shows needs no advice.
    own = (run.evals / it.evaluation / "samples.png" for it in best if it.step == row.step)
    has_samples = any(run.samples.glob(f"step_{row.step:08d}*.png")) or any(
        file.exists() for file in own
    )
    there = ("report ", "sample ") if has_samples else ("report ",)
    following = [code(command(words, run)) for words in found.next if not words.startswith(there)]
    if following or found.do:
        yield text(Markup(" ").join(filter(None, ["Next:", found.do, *following])))
    yield text(row.note or "", "note")
    for warning in (*row.changes, *row.problems):
        yield text(warning, "warning")


def _outside(run: RunFolder, follow: bool) -> Markup:
    """Which folders are left out; empty if none is."""
    folders = [run.tensorboard, run.samples, run.evals, run.logs]
    links = [
        folder
        for folder in (*run.evals.glob("*"), *run.tensorboard.glob("*"))
        if folder.is_symlink()
    ]
    names = [
        str(it.relative_to(run.path))
        for it in (*folders, *links)
        if not is_inside(run, it, follow=follow)
    ]
    what = (
        f"Left out, because a link leads out of the run: {', '.join(names)}. Add "
        f"--follow-links "
        f"to read it."
    )
    return text(what if names else "")


def _tile(best: Result, recipe: str) -> Markup:
    """A result beside the true entropy, or the published value of its recipe."""
    known, digits = published(recipe, best.quantity.key), best.quantity.digits
    beside = (
        ""
        if known is None
        else f"published {'≤ ' if known.bound else ''}{known.value:g} ({known.how})"
    )
    if best.truth is not None:
        beside = (
            f"true entropy {best.truth:.{digits}f}, gap {best.number.value - best.truth:.{digits}f}"
        )
    nfe = "" if best.number.nfe is None else f"{best.number.nfe:,.0f} NFE"
    beside = beside or floor_of(best)
    about = [f"step {best.step:,}", EmaSpec(length=best.ema_length).words, best.of, nfe]
    return part(
        "tile",
        label=best.quantity.label,
        value=value_of(best),
        about=[beside, ", ".join(filter(None, about))],
    )


def _effort(row: RunStatus) -> Iterator[Markup]:
    """The loss, and what the training took."""
    if row.shown_loss is not None:
        about = f"step {count(row.step)}; last loss {number(row.loss)}"
        yield part("tile", label="loss (smoothed)", value=number(row.shown_loss), about=[about])
    used, _, about = usage_line(row.usage).partition(": ")
    if about:
        yield part("tile", label="used", value=used, about=[about])


def _time_line(found: Why) -> Markup:
    """The attempts against time, coloured by the state in which they left the run."""
    stretches = found.stretches
    begin, last = min(it.began - it.waited_s for it in stretches), max(it.until for it in stretches)
    share = 100 / max(last - begin, 1e-3)
    bars, legend = [], {}
    for it, state, end in found.ends:
        attempt = it.attempt
        steps = (
            f"attempt {attempt.attempt}, steps {count(attempt.first_step)} to "
            f"{count(attempt.last_step)}"
        )
        for what, since, until, colour in (
            ("queued", it.began - it.waited_s, it.began, "dim"),
            ("starting", it.began, it.started, "blue"),
            (end, it.started, it.until, colour_of(state)),
        ):
            if until - since >= 1 or until == it.until:
                about = f"{steps}: {what}, {duration(until - since)}"
                bars.append(
                    (f"{colour} {what}", (since - begin) * share, (until - since) * share, about)
                )
                legend[what] = f"var(--{colour})"
    ends = [
        local_time(begin),
        duration(last - begin),
        "now" if found.row.state == "RUNNING" else local_time(last),
    ]
    return part("time_line", bars=bars, entries=legend.items(), ends=ends)


def _by_step(results: Sequence[Result]) -> Iterator[Markup]:
    """A chart for each quantity with results at several steps, with a line for each choice of
    settings."""
    for _, quantity in registry.quantities():
        lines: dict[str, dict[int, tuple[float, ...]]] = {}
        own = [
            it
            for it in results
            if it.quantity.key == quantity.key and math.isfinite(it.number.value)
        ]
        for it in own:
            point = it.step, it.number.value, it.number.stderr or math.nan
            lines.setdefault(f"{it.of}, {it.how}", {})[it.step] = point
        several = {
            label: list(points.values()) for label, points in lines.items() if len(points) > 1
        }
        truths = {it.truth for it in own}
        yield chart(
            f"{quantity.label}, by step", several, truth=truths.pop() if len(truths) == 1 else None
        )


def _remarks(row: RunStatus) -> Iterator[Markup]:
    """Which evaluations are not complete, and what is unusual about results, each text once."""
    about: dict[str, list[str]] = {}
    for entry in row.evals:
        state = f"{entry['state'].lower()}, {entry['shards_done']} of {entry['shards']} shards"
        for remark in (
            entry["remarks"] if entry["state"] == "FINISHED" else [state, *entry["remarks"]]
        ):
            about.setdefault(remark, []).append(entry["id"])
    for remark, names in about.items():
        yield text(
            f"{', '.join(names) if len(names) <= 3 else f'{len(names)} evaluations'}: {remark}"
        )
    yield text("" if row.evals else "There are no evaluations.")


def _sweeps(run: RunFolder, row: RunStatus) -> Iterator[Section]:
    """The sweeps of evaluations that can be read, oldest first."""
    for entry in row.sweeps:
        if (sweep := Sweep.load(run.evals / entry["id"])) is not None:
            cells, names = rows(run, sweep), [axis.key for axis in sweep.axes]
            keys = keys_of(cells)
            nfe = [
                {f"{cell[f'{key}_nfe']:,.0f}" for key in keys if cell[f"{key}_nfe"] is not None}
                for cell in cells
            ]
            columns = {name: [cell[name] for cell in cells] for name in names}
            for it in map(registry.quantity, keys):
                columns[it.label] = [
                    "-" if cell[it.key] is None else cell_text(it, cell) for cell in cells
                ]
            columns["NFE"] = [", ".join(sorted(texts)) or "-" for texts in nfe]
            done = (
                f"{entry['id']}: {entry['done']} of {len(entry['evaluations'])} evaluations "
                f"are "
                f"complete"
            )
            found = table(f"Results by {' and '.join(names)}", columns)
            charts = [_swept(sweep, cells, key) for key in keys]
            yield Section(f"Sweep over {' and '.join(names)}", [*charts, found, text(done)])


def _swept(sweep: Sweep, cells: Sequence[Mapping[str, Any]], key: str) -> Markup:
    """A result against the last axis, a line for each choice on the others."""
    along, lines = sweep.axes[-1], {}
    known = [cell for cell in cells if cell[key] is not None and math.isfinite(cell[key])]
    for label, own in lines_of(sweep, known).items():
        lines[label] = [
            (along.values.index(it[along.key]), it[key], it[f"{key}_stderr"] or math.nan)
            for it in own
        ]
    return chart(f"{registry.quantity(key).label}, by {along.key}", lines, names=along.values)


def _curves(curves: Mapping[str, Points]) -> Iterator[Markup]:
    """The curves of the training but its loss: one chart of the losses by time, and one for each
    other tag."""
    ranges = [tag.removeprefix(_BY_TIME) for tag in curves if tag.startswith(_BY_TIME)]
    ranges.sort(key=lambda it: float(it.partition("_")[0]))
    by_time = {f"t {it.replace('_', ' ')}": curves[f"{_BY_TIME}{it}"] for it in ranges}
    yield chart("loss by time t, without weights", by_time, is_ordered=True)
    yield from other_charts({"": curves})


def other_charts(curves: Mapping[str, Mapping[str, Points]]) -> Iterator[Markup]:
    """The curves but losses and results, those of the training first: a chart for each, of several
    runs for each that more than one has. Those that are constant are listed for one run, and left
    out for several.
    """
    # An attempt that began again may have no points yet.
    tags = {tag for own in curves.values() for tag, points in own.items() if points}
    tags = {tag for tag in tags if not tag.startswith(LOSS) and _EVALUATIONS not in tag}
    constant = []
    for tag in sorted(tags, key=lambda tag: (not tag.startswith("train/"), tag)):
        words = _WORDS.get(tag, tag.removeprefix("train/").replace("_", " "))
        members = {run: own.get(tag, ()) for run, own in curves.items()}
        known = [[value for _, value in points] for points in members.values() if points]
        if all(max(values) - min(values) <= _CONSTANT * max(map(abs, values)) for values in known):
            constant.append(f"{words} {number(known[-1][-1])}")
        elif len(known) > 1 or len(curves) == 1:
            yield chart(words, members)
    if constant and len(curves) == 1:
        yield text(f"Constant: {', '.join(constant)}.")


def shipped(run: RunFolder) -> Recipe | None:
    """The shipped recipe that a run is made from; None if it is another one, or cannot be read."""
    with contextlib.suppress(CldError, OSError):
        file = recipes().get(run.identity().get("recipe") or run.recipe().name)
        return None if file is None else load(file, with_plugins=False).anchored(Path.cwd())
    return None


def differing(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The columns of a table: the keys that are not the same in all of these recipes, and their
    values in each."""
    flat = {name: leaves(recipe) for name, recipe in recipes.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values if key != "name")
    texts = {
        key: [one_line(to_yaml_line(values.get(key)), 120) for values in flat.values()]
        for key in keys
    }
    found = {key: values for key, values in texts.items() if len(set(values)) > 1}
    return {"key": list(found)} | {
        name: [it[place] for it in found.values()] for place, name in enumerate(flat)
    }


def _recipe(run: RunFolder) -> Iterator[Markup]:
    """The recipe as a difference to the shipped one, and in full."""
    try:
        recipe = run.recipe()
    except (CldError, OSError) as error:
        yield text(f"The recipe cannot be read: {one_line(error, 1000)}")
        return
    if (other := shipped(run)) is not None:
        columns = differing({"this run": recipe.to_dict(), other.name: other.to_dict()})
        summary = f"{keys_differ(len(columns['key']))} from the shipped recipe {other.name}"
        yield table(summary, columns) or text(f"{summary}.")
    yield part("folded", summary="The whole recipe", content=dump(recipe))


def software(run: RunFolder, attempts: Sequence[Attempt]) -> dict[str, str]:
    """The commit, and the versions that the newest attempt ran with."""
    identity = run.identity()
    git = identity.get("git") or {}
    versions = next(
        (it.versions for it in reversed(attempts) if it.versions), None
    ) or identity.get("versions", {})
    return {
        "commit": f"{str(git['commit'])[:12]}{', with changes' if git.get('dirty') else ''}"
        if "commit" in git
        else "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _facts(run: RunFolder, found: Why) -> Markup:
    """Versions, code and machines, in words."""
    row = found.row
    attempts = found.history.attempts if row.is_readable else ()
    last = attempts[-1] if attempts else None
    facts = {
        "recipe": row.recipe,
        "created": " by ".join(filter(None, (local_time(row.created, unknown=""), row.user))),
        "begun": row.started_from,
        "submitted from": run.identity().get("host"),
        "group": " ".join(
            [row.group or "", *(f"{key}={value}" for key, value in row.sweep.items())]
        ).strip(),
        "newest checkpoint": None
        if row.checkpoint_step is None
        else f"step {count(row.checkpoint_step)}",
        "used": usage_line(row.usage),
        "code": row.code if row.code == "live" else (row.code or "")[:12],
        **software(run, attempts),
        "machines": ", ".join(dict.fromkeys(last.hosts) if last is not None else ()) or row.host,
        "GPU": last and last.gpu,
        "driver": last and last.driver,
        "folder": str(run.path),
    }
    return table("As the ledger of the run has it", fact_columns(facts))


def fact_columns(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """The columns of a table of facts; what is not known is left out."""
    known = {name: str(value) for name, value in facts.items() if value}
    return {"fact": list(known), "value": list(known.values())}


def write_pages(
    rows: Sequence[RunStatus], begun: Callable[[int, int, str], object], *, follow: bool = False
) -> tuple[int, dict[str, str]]:
    """Write the pages of runs that are missing or out of date; whatever is wrong with one run
    spares the others.

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
            if not is_up_to_date(run, row, follow=follow):
                require_may_change(run.path, "Its page was not written")
                write_text(page_of(run), page(run, follow=follow))
                written += 1
        except Exception as error:
            problems[row.name] = said(error)
    return written, problems


def page_of_many(
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
        which: what `cldctl report` takes for an index over these runs. None for a comparison, which
            also shows what differs, samples side by side, and the other curves.
        follow: also read folders that links lead out of a run to.
    """
    runs = [RunFolder(row.path) for row in rows]
    curves = {run.name: read(run, follow=follow) for run in runs[:_DRAWN]}
    hint, missing = "", sum(not has_page(run) for run in runs)
    if which is not None and missing:
        write_all = code(command(f"report {which} --pages", runs[0]))
        hint = Markup(
            f"Without a page yet: {missing}. {write_all} writes those that are missing or out of "
            f"date."
        )
    pills = [
        (words.lower(), colour_of(words.rpartition(" ")[2]))
        for words in states(rows).split(", ")
        if words
    ]
    pictures = (gallery(run, follow=follow, most=1)[:1] for run in runs if which is None)
    sections = [
        Section("", map(text, notes)),
        Section("Best results", [_best(rows, folder) or text("There are no runs."), text(hint)]),
        Section("Averages over seeds", _averages(groups)),
        Section("Loss", _losses(runs, curves)),
        Section("What differs", _differences(runs) if which is None else ()),
        Section("Samples", (it for found in pictures for it in found), "pictures"),
        Section("Curves", other_charts(curves) if which is None else ()),
    ]
    return render(title, f"cldctl {__version__}", pills, sections)


def _best(rows: Sequence[RunStatus], folder: Path) -> Markup:
    """The runs with their best results, and of how many samples or points these are."""
    results = [
        {it.quantity.label: f"{value_of(it)}{it.of and f' ({it.of})'}" for it in best_of(found)}
        for found in (readable_results(RunFolder(row.path)) for row in rows)
    ]
    labels = dict.fromkeys(label for found in results for label in found)
    keys = dict.fromkeys(key for row in rows for key in row.sweep)
    columns: dict[str, Sequence[str]] = {
        "run": [_name(row, folder) for row in rows],
        "state": [row.state.lower() for row in rows],
        **{key: [one_line(row.sweep.get(key, "-"), 60) for row in rows] for key in keys},
        "step": [
            count(row.step) + (f" of {count(row.steps)}" if row.steps is not None else "")
            for row in rows
        ],
        "loss": [number(row.shown_loss) for row in rows],
        **{label: [found.get(label, "-") for found in results] for label in labels},
        "attempts": [str(len(row.attempts)) for row in rows],
        "used": [usage_line(row.usage).partition(": ")[0] or "-" for row in rows],
        "updated": [local_time(row.heard_of) for row in rows],
        "tags and note": [
            " ".join([*row.tags, one_line(row.note or "", 120)]).strip() or "-" for row in rows
        ],
    }
    return table("A name leads to the page of the run, or to the command that writes it", columns)


def _name(row: RunStatus, folder: Path) -> Markup:
    """A name with a relative address of the page of its run. A colon in it must not begin a
    scheme."""
    run, name = RunFolder(row.path), printable(row.name)
    if has_page(run):
        link = quote(os.path.join(".", os.path.relpath(page_of(run), folder)))
        return Markup('<a href="{}">{}</a>').format(link, name)
    write = code(command(f"report {shlex.quote(row.name)}", run))
    return Markup("<details><summary>{}</summary>{}</details>").format(name, write)


def _losses(
    runs: Sequence[RunFolder], curves: Mapping[str, Mapping[str, Points]]
) -> Iterator[Markup]:
    """The losses over each other: a chart for all runs whose data, diffusion and objective are the
    same."""
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
        yield text(
            "Losses can be compared, and share a chart, if data, diffusion and objective are the "
            "same."
        )
    if len(runs) > _DRAWN:
        yield text(f"Curves are those of the first {_DRAWN} runs.")


def _settings(run: RunFolder) -> tuple[str, frozenset[str]]:
    """What the loss of a run is of: the names of data, diffusion and objective, and their other
    keys with values."""
    try:
        recipe = run.recipe().to_dict()
    except (CldError, OSError):
        return f"{run.name}, recipe cannot be read", frozenset()
    keys = leaves({section: recipe[section] for section in _LOSS_OF})
    settings = {
        f"{key.partition('.')[2]}={to_yaml_line(value)}"
        for key, value in keys.items()
        if key not in _SAME
    }
    return ", ".join(recipe[section]["name"] for section in _LOSS_OF), frozenset(settings)


def _differences(runs: Sequence[RunFolder]) -> Iterator[Markup]:
    """The keys in which the recipes differ, and the versions of the code."""
    recipes: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        try:
            commit = str((run.identity().get("git") or {}).get("commit"))
            recipes[run.name] = {**run.recipe().to_dict(), "commit": commit}
        except (CldError, OSError) as error:
            yield text(f"{run.name}: its recipe cannot be read: {one_line(error)}", "warning")
    yield table("Keys of the recipes", differing(recipes)) or text("The recipes are the same.")


def _averages(groups: Sequence[Group]) -> Iterator[Markup]:
    """A line for each choice of the keys besides the seed, as `cldctl compare` has it."""
    lines: list[Line] = []
    left_out: dict[str, Exception] = {}
    for group in groups:
        lines += lines_of_group(
            group, "last", lambda run, error: left_out.update({run.name: error})
        )[0]
    yield table(AVERAGES[:1].upper() + AVERAGES[1:], average_columns(lines))
    for name, error in left_out.items():
        yield text(f"{name} is left out, because it cannot be read: {one_line(error)}", "warning")
