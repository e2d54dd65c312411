"""Two kinds of pages: everything about one run, and several runs side by side.

The index over all runs is the table of `cldctl status` as a page.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from cld_core.errors import CldError
from cld_core.evaluate.published import published
from cld_core.metrics import Number
from cld_core.run import RunFolder
from cld_core.run.evaluations import Sweep
from cld_core.run.groups import Group
from cld_core.run.history import Attempt
from cld_core.sanitize import local_time, one_line, printable
from cldctl.evals.results import (
    AVERAGES,
    FLOOR,
    RULE_OF_MEANS,
    ComparedRuns,
    Result,
    SweptResults,
    best_of,
    lines_of_group,
    results_in,
    results_of,
    rows,
    rule,
    sweep_lines,
)
from cldctl.runs.selection import command
from cldctl.runs.status import RunStatus
from cldctl.runs.why import Why, why
from cldctl.show.console import age, count, duration, keys_differ, number
from cldctl.show.evaluations import compared, remarks, tunings
from cldctl.show.runs import all_results, newest_results, run_columns, states, swept_values
from cldctl.show.tables import Cell, attempts, columns_of, number_text, result_columns, usage_line

from .curves import LOSS, Points, is_inside, read
from .document import PageSection, chart, code, colour_of, gallery, part, render, table, text

# A curve whose values differ by less than this share of them is constant.
_CONSTANT = 0.005
# Tags of losses by time, and of results, which have charts of their own.
_BY_TIME = "train/loss_at_t/"
_EVALUATIONS = "evaluation/"
# The states in which the page shows the last failure, and the lines of its log that it shows.
_FAILED = ("FAILED", "LOST", "STOPPED")
_LAST_LINES = 8
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
# Curves are drawn of so many runs: more cannot be told apart.
_DRAWN = 24
# Losses can be compared if these sections agree, except for keys that do not change the loss.
_LOSS_OF = ("data", "sde", "objective")
_SAME = ("data.cache", "data.threads", "sde.numerical_eps")


def page_of(run: RunFolder) -> Path:
    """Where `cldctl report` writes the page of a run."""
    return run.path / "report.html"


def has_page(run: RunFolder) -> bool:
    return page_of(run).is_file() and not page_of(run).is_symlink()


def page(run: RunFolder, *, follow: bool = False) -> str:
    """The page of a run as text; it refers to nothing outside.

    Args:
        follow: also read folders that links lead out of the run to.
    """
    found = why(run)
    row = found.row
    recipe = shipped(run)
    results = readable_results(run)
    best = best_of(results)
    curves = read(run, follow=follow)
    pictures = gallery(run, follow=follow)
    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    alone = [result for result in results if result.evaluation not in swept]
    tuned = sorted(row.tunings, key=lambda it: (it["nfe"], it["checkpoint_step"], it["id"]))
    past = table("Attempts, oldest first", attempts(found.attempts, when=local_time).columns)
    loss = chart("loss", {"loss": curves.get(LOSS, [])}) or text("No loss has been recorded.")
    sections = [
        PageSection("", _verdict(found, best, follow), "lines"),
        PageSection(
            "", [*(_tile(it, recipe.name if recipe else "") for it in best), *_effort(row)], "tiles"
        ),
        PageSection("", [loss, *pictures[:1]], "pair"),
        PageSection("", [_outside(run, follow)]),
        PageSection(
            "Attempts",
            [_time_line(found), past] if past else [text("There are no attempts yet.")],
        ),
        PageSection(
            "Evaluations",
            [*_by_step(results), table("Evaluations, by step", listed(alone)), *_remarks(row)],
        ),
        *_sweeps(run, row),
        PageSection("Tuned samplers", [table(_TUNED, tunings(tuned).columns)]),
        PageSection("Curves", _curves(curves)),
        PageSection("Samples", pictures[1:], "pictures"),
        PageSection("Recipe", _recipe(run)),
        PageSection("Code and machines", [_facts(run, found)]),
    ]
    pills = [(row.state, colour_of(row.state)), *((tag, "dim") for tag in row.tags)]
    return render(run.name, pills, sections)


def readable_results(run: RunFolder) -> list[Result]:
    """The results of all finished evaluations, by step; none if the recipe cannot be read."""
    with contextlib.suppress(CldError, OSError):
        return sorted(results_of(run), key=lambda it: (it.step, it.evaluation))
    return []


def listed(results: Sequence[Result]) -> dict[str, Sequence[Cell]]:
    """The columns of a list of results, a line each, with all their settings."""
    rows = []
    for result in results:
        value = number_text(result.quantity, result.number)
        if result.truth is not None:
            value += f" (true entropy {result.truth:.{result.quantity.digits}f})"
        row = {
            "evaluation": result.evaluation,
            "step": count(result.step),
            "number": result.quantity.label,
            "value": value,
            "of": result.of or "-",
            "network evaluations": _nfe(result.number) or "-",
            "settings": result.how,
        }
        rows.append(row)
    return columns_of(rows)


def _nfe(number: Number | None) -> str:
    """The network evaluations of a result; empty if they are unknown."""
    return "" if number is None or number.nfe is None else f"{number.nfe:,.0f}"


def floor_of(result: Result) -> str:
    """In words, what true samples reach; empty if the report does not have it."""
    if result.floor is None:
        return ""
    quantity = registry.quantity(f"{result.quantity.key}{FLOOR}")
    return f"{quantity.label} {number_text(quantity, result.floor)}"


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
        value = f"{number_text(best[0].quantity, best[0].number)} {unit}".strip()
        floor = floor_of(best[0])
        sentence += f" Best {name}: {value} ({floor})." if floor else f" Best {name}: {value}."
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
    # Commands for what the page is or shows are left out.
    pictures = [*run.samples.glob(f"step_{row.step:08d}*.png")]
    for result in best:
        if result.step == row.step:
            pictures.append(run.evals / result.evaluation / "samples.png")
    has_samples = any(file.exists() for file in pictures)
    done = ("report ", "sample ") if has_samples else ("report ",)
    following = [code(command(words, run)) for words in found.next if not words.startswith(done)]
    if following or found.do:
        yield text(Markup(" ").join(filter(None, ["Next:", found.do, *following])))
    yield text(row.note or "", "note")
    for warning in (*row.changes, *row.problems):
        yield text(warning, "warning")


def _outside(run: RunFolder, follow: bool) -> Markup:
    """Which folders are left out; empty if none is."""
    folders = [run.tensorboard, run.samples, run.evals, run.logs]
    inner = (*run.evals.glob("*"), *run.tensorboard.glob("*"))
    folders += (folder for folder in inner if folder.is_symlink())
    outside = [folder for folder in folders if not is_inside(run, folder, follow=follow)]
    if not outside:
        return Markup()
    names = ", ".join(str(folder.relative_to(run.path)) for folder in outside)
    return text(
        f"Left out, because a link leads out of the run: {names}. Add --follow-links to read it."
    )


def _tile(best: Result, recipe: str) -> Markup:
    """A result beside the true entropy, or the published value of its recipe."""
    known = published(recipe, best.quantity.key)
    if best.truth is not None:
        digits = best.quantity.digits
        gap = best.number.value - best.truth
        beside = f"true entropy {best.truth:.{digits}f}, gap {gap:.{digits}f}"
    elif known is not None:
        beside = f"published {'≤ ' if known.bound else ''}{known.value:g} ({known.how})"
    else:
        beside = floor_of(best)
    nfe = _nfe(best.number)
    about = [f"step {best.step:,}", EmaSpec(length=best.ema_length).words, best.of]
    if nfe:
        about.append(f"{nfe} NFE")
    return part(
        "tile",
        label=best.quantity.label,
        value=number_text(best.quantity, best.number),
        about=[beside, ", ".join(filter(None, about))],
    )


def _effort(row: RunStatus) -> Iterator[Markup]:
    """Tiles of the loss, and of the hours that the training used."""
    if row.shown_loss is not None:
        about = f"step {count(row.step)}; last loss {number(row.loss)}"
        yield part("tile", label="loss (smoothed)", value=number(row.shown_loss), about=[about])
    used, _, about = usage_line(row.usage).partition(": ")
    if about:
        yield part("tile", label="used", value=used, about=[about])


def _time_line(found: Why) -> Markup:
    """The attempts against time, coloured by the state in which they left the run."""
    stretches = found.stretches
    begin = min(stretch.began - stretch.waited_s for stretch in stretches)
    last = max(stretch.until for stretch in stretches)
    percent = 100 / max(last - begin, 1e-3)
    bars = []
    legend = {}
    for stretch, state, end in found.ends:
        attempt = stretch.attempt
        steps = f"steps {count(attempt.first_step)} to {count(attempt.last_step)}"
        for what, since, until, colour in (
            ("queued", stretch.began - stretch.waited_s, stretch.began, "dim"),
            ("starting", stretch.began, stretch.started, "blue"),
            (end, stretch.started, stretch.until, colour_of(state)),
        ):
            if until - since >= 1 or until == stretch.until:
                left = (since - begin) * percent
                width = (until - since) * percent
                about = f"attempt {attempt.attempt}, {steps}: {what}, {duration(until - since)}"
                bars.append((f"{colour} {what}", left, width, about))
                legend[what] = f"var(--{colour})"
    end_of_line = "now" if found.row.state == "RUNNING" else local_time(last)
    ends = [local_time(begin), duration(last - begin), end_of_line]
    return part("time_line", bars=bars, entries=legend.items(), ends=ends)


def _by_step(results: Sequence[Result]) -> Iterator[Markup]:
    """A chart for each quantity with results at several steps, with a line for each choice of
    settings."""
    for _, quantity in registry.quantities():
        lines: dict[str, dict[int, tuple[float, ...]]] = {}
        truths = set()
        for result in results:
            value = result.number.value
            if result.quantity.key == quantity.key and math.isfinite(value):
                point = (result.step, value, result.number.stderr or math.nan)
                lines.setdefault(f"{result.of}, {result.how}", {})[result.step] = point
                truths.add(result.truth)
        curves = {label: [*points.values()] for label, points in lines.items() if len(points) > 1}
        truth = truths.pop() if len(truths) == 1 else None
        yield chart(f"{quantity.label}, by step", curves, truth=truth)


def _remarks(row: RunStatus) -> Iterator[Markup]:
    """The remarks on evaluations, and which of these are not complete."""
    entries = []
    for entry in row.evals:
        texts = [*entry["remarks"]]
        if entry["state"] != "FINISHED":
            done = f"{entry['shards_done']} of {entry['shards']} shards"
            texts.insert(0, f"{entry['state'].lower()}, {done}")
        entries.append({**entry, "remarks": texts})
    for line in remarks(entries):
        yield text(line.plain)
    if not row.evals:
        yield text("There are no evaluations.")


def _sweeps(run: RunFolder, row: RunStatus) -> Iterator[PageSection]:
    """The sweeps of evaluations that can be read, oldest first."""
    for entry in row.sweeps:
        if (sweep := Sweep.load(run.evals / entry["id"])) is not None:
            cells = rows(run, sweep)
            quantities = results_in(cells)
            lines = []
            for cell in cells:
                lines.append({quantity.key: cell.numbers[quantity.key] for quantity in quantities})
            columns: dict[str, Sequence[Cell]] = {}
            for axis in sweep.axes:
                columns[axis.key] = [cell.values[axis.key] for cell in cells]
            columns |= result_columns(lines)
            nfe = [sorted({*map(_nfe, line.values())} - {""}) for line in lines]
            columns["NFE"] = [", ".join(texts) or "-" for texts in nfe]
            axes = " and ".join(axis.key for axis in sweep.axes)
            done = f"{entry['done']} of {len(entry['evaluations'])} evaluations are complete"
            charts = [_swept(sweep, cells, quantity) for quantity in quantities]
            found = table(f"Results by {axes}", columns)
            yield PageSection(
                f"Sweep over {axes}", [*charts, found, text(f"{entry['id']}: {done}")]
            )


def _swept(sweep: Sweep, cells: Sequence[SweptResults], quantity: registry.Quantity) -> Markup:
    """A result against the last axis, a line for each choice on the others."""
    along = sweep.axes[-1]
    lines = {}
    for label, points in sweep_lines(sweep, cells, quantity).items():
        lines[label] = [
            (along.values.index(value), number.value, number.stderr or math.nan)
            for value, number in points
        ]
    return chart(f"{quantity.label}, by {along.key}", lines, names=along.values)


def _curves(curves: Mapping[str, Points]) -> Iterator[Markup]:
    """Charts of the training except its loss: the losses by time in one, each other tag alone."""
    ranges = [tag.removeprefix(_BY_TIME) for tag in curves if tag.startswith(_BY_TIME)]
    ranges.sort(key=lambda it: float(it.partition("_")[0]))
    by_time = {f"t {it.replace('_', ' ')}": curves[f"{_BY_TIME}{it}"] for it in ranges}
    yield chart("loss by time t, without weights", by_time, is_ordered=True)
    yield from other_charts({"": curves})


def other_charts(curves: Mapping[str, Mapping[str, Points]]) -> Iterator[Markup]:
    """A chart for each curve except losses and results, those of the training first.

    Of several runs, only curves that more than one run has are drawn. Constant curves are listed
    for one run, and left out for several.
    """
    # A new attempt may have no points yet.
    tags = {tag for own in curves.values() for tag, points in own.items() if points}
    tags = {tag for tag in tags if not tag.startswith(LOSS) and _EVALUATIONS not in tag}
    constant = []
    for tag in sorted(tags, key=lambda tag: (not tag.startswith("train/"), tag)):
        words = _WORDS.get(tag, tag.removeprefix("train/").replace("_", " "))
        members = {run: own.get(tag, ()) for run, own in curves.items()}
        known = [[value for _, value in points] for points in members.values() if points]
        if all(map(_is_constant, known)):
            constant.append(f"{words} {number(known[-1][-1])}")
        elif len(known) > 1 or len(curves) == 1:
            yield chart(words, members)
    if constant and len(curves) == 1:
        yield text(f"Constant: {', '.join(constant)}.")


def _is_constant(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= _CONSTANT * max(map(abs, values))


def shipped(run: RunFolder) -> Recipe | None:
    """The shipped recipe that a run is made from; None if it is another one, or cannot be read."""
    with contextlib.suppress(CldError, OSError):
        file = recipes().get(run.identity().get("recipe") or run.recipe().name)
        return None if file is None else load(file, with_plugins=False).anchored(Path.cwd())
    return None


def differing(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The columns of a table: keys whose values differ between recipes, and the values in each."""
    flat = {name: leaves(recipe) for name, recipe in recipes.items()}
    columns: dict[str, list[str]] = {name: [] for name in ("key", *flat)}
    for key in dict.fromkeys(key for values in flat.values() for key in values):
        texts = [one_line(to_yaml_line(values.get(key)), 120) for values in flat.values()]
        if key != "name" and len(set(texts)) > 1:
            for heading, cell in zip(columns, (key, *texts), strict=True):
                columns[heading].append(cell)
    return columns


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
    commit = str(git.get("commit", ""))[:12]
    if commit and git.get("dirty"):
        commit += ", with changes"
    versions = identity.get("versions", {})
    for attempt in attempts:
        versions = attempt.versions or versions
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {"commit": commit, "versions": listed}


def _facts(run: RunFolder, found: Why) -> Markup:
    """Versions, code and machines, in words."""
    row = found.row
    attempts = found.history.attempts if row.is_readable else ()
    swept = [f"{key}={value}" for key, value in row.sweep.items()]
    saved = row.checkpoint_step
    facts = {
        "recipe": row.recipe,
        "created": " by ".join(filter(None, (local_time(row.created, unknown=""), row.user))),
        "begun": row.started_from,
        "submitted from": run.identity().get("host"),
        "group": " ".join(filter(None, [row.group, *swept])),
        "newest checkpoint": None if saved is None else f"step {count(saved)}",
        "used": usage_line(row.usage),
        "code": (row.code or "")[:12],
        **software(run, attempts),
        "machines": row.host,
    }
    if attempts:
        last = attempts[-1]
        facts["machines"] = ", ".join(dict.fromkeys(last.hosts)) or row.host
        facts["GPU"] = last.gpu
        facts["driver"] = last.driver
    facts["folder"] = str(run.path)
    return table("As the ledger of the run has it", fact_columns(facts))


def fact_columns(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """The columns of a table of facts, without those that are unknown."""
    known = {name: str(value) for name, value in facts.items() if value}
    return {"fact": list(known), "value": list(known.values())}


def index_page(rows: Sequence[RunStatus], root: Path, folder: Path, notes: Iterable[str]) -> str:
    """The table of `cldctl status` as a page, with links to the pages of runs that exist.

    Args:
        root: the folder of the runs.
        folder: the folder of the page, from which its links are relative.
        notes: remarks above the table.
    """
    columns = run_columns(rows, results=newest_results(rows))
    sections = [
        PageSection("", map(text, notes)),
        PageSection("", [_linked(rows, columns, folder) or text("There are no runs.")]),
    ]
    return render(f"Runs in {root.absolute().name}", _pills(rows), sections)


def comparison_page(
    title: str,
    rows: Sequence[RunStatus],
    folder: Path,
    groups: Sequence[Group],
    notes: Iterable[str],
    *,
    follow: bool = False,
) -> str:
    """Several runs side by side: results, averages over seeds, recipes, losses, samples and curves.

    Args:
        folder: the folder of the page, from which its links are relative.
        groups: the groups whose results are averaged.
        notes: remarks above the table.
        follow: also read folders that links lead out of a run to.
    """
    runs = [RunFolder(row.path) for row in rows]
    curves = {run.name: read(run, follow=follow) for run in runs[:_DRAWN]}
    pictures: list[Markup] = []
    for run in runs:
        pictures += gallery(run, follow=follow, most=1)[:1]
    columns = run_columns(rows, swept_values(rows), all_results(rows))
    sections = [
        PageSection("", map(text, notes)),
        PageSection("Results", [_linked(rows, columns, folder)]),
        PageSection("Averages over seeds", _averages(groups)),
        PageSection("Loss", _losses(runs, curves)),
        PageSection("What differs", _differences(runs)),
        PageSection("Samples", pictures, "pictures"),
        PageSection("Curves", other_charts(curves)),
    ]
    return render(title, _pills(rows), sections)


def _pills(rows: Sequence[RunStatus]) -> Iterator[tuple[str, str]]:
    """How many runs are in which state, each with the colour of the state."""
    for words in filter(None, states(rows).split(", ")):
        yield words.lower(), colour_of(words.rpartition(" ")[2])


def _linked(
    rows: Sequence[RunStatus], columns: Mapping[str, Sequence[Cell]], folder: Path
) -> Markup:
    """A table of runs whose names lead to their pages, where those exist."""
    names = {"run": [_name(row, folder) for row in rows]}
    return table("A name leads to the page of the run, if it has one", {**columns, **names})


def _name(row: RunStatus, folder: Path) -> Markup:
    """The name of a run, as a link to its page if there is one."""
    run = RunFolder(row.path)
    name = printable(row.name)
    if not has_page(run):
        return Markup.escape(name)
    # The leading ./ keeps a name with a colon from being read as a URL scheme.
    link = quote(os.path.join(".", os.path.relpath(page_of(run), folder)))
    return Markup('<a href="{}">{}</a>').format(link, name)


def _losses(
    runs: Sequence[RunFolder], curves: Mapping[str, Mapping[str, Points]]
) -> Iterator[Markup]:
    """A chart of the losses of all runs whose data, diffusion and objective agree."""
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
        yield text("Losses share a chart if data, diffusion and objective are the same.")
    if len(runs) > _DRAWN:
        yield text(f"Curves are those of the first {_DRAWN} runs.")


def _settings(run: RunFolder) -> tuple[str, frozenset[str]]:
    """The names of data, diffusion and objective of a run, and their other keys with values."""
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
    lines: list[ComparedRuns] = []
    left_out: dict[str, Exception] = {}

    def leave_out(run: RunFolder, error: Exception) -> None:
        left_out[run.name] = error

    for group in groups:
        found, _ = lines_of_group(group, "last", leave_out)
        lines += found
    if lines:
        yield table(AVERAGES[:1].upper() + AVERAGES[1:], compared(lines).columns)
        yield text(rule(lines, RULE_OF_MEANS) or "")
    for name, error in left_out.items():
        yield text(f"{name} is left out, because it cannot be read: {one_line(error)}", "warning")
