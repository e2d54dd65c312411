"""Two kinds of pages: everything about one run, and several runs side by side.

The index over all runs is the table of `cldctl status` as a page.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter, itemgetter
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
    best_of,
    figure_of,
    lines_of_group,
    results_in,
    results_of,
    rows,
    rule,
)
from cldctl.runs.selection import command
from cldctl.runs.status import RunStatus
from cldctl.runs.why import Why, why
from cldctl.show.console import age, count, duration, keys_differ, number
from cldctl.show.evaluations import compared, evaluations, remarks, tunings
from cldctl.show.runs import all_results, newest_results, run_columns, states, swept_values
from cldctl.show.tables import Cell, attempts, number_text, result_columns, usage_line

from .curves import LOSS, Points, is_inside, read
from .document import (
    PageSection,
    chart,
    code,
    colour_of,
    drawing,
    gallery,
    part,
    render,
    table,
    text,
)

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
# The most runs whose curves are drawn: more cannot be distinguished.
_DRAWN = 24
# Losses can be compared if these sections agree, except for keys that do not change the loss.
_LOSS_OF = ("data", "sde", "objective")
_SAME = ("data.cache=", "data.threads=", "sde.numerical_eps=")


def page_of(run: RunFolder) -> Path:
    """Where `cldctl report` writes the page of a run."""
    return run.path / "report.html"


def page(run: RunFolder, *, follow: bool = False) -> str:
    """The page of a run, a file that loads nothing else.

    Args:
        follow: also read folders that links lead out of the run to.
    """
    explanation = why(run)
    row = explanation.row
    pills = [(row.state, colour_of(row.state)), *((tag, "dim") for tag in row.tags)]
    return render(run.name, pills, _sections(run, explanation, follow))


def _sections(run: RunFolder, explanation: Why, follow: bool) -> Iterator[PageSection]:
    row = explanation.row
    results = readable_results(run)
    best = best_of(results)
    curves = read(run, follow=follow)
    pictures = gallery(run, follow=follow)
    of_step = [run.evals / result.evaluation for result in best if result.step == row.step]
    sample_files = [folder / "samples.png" for folder in of_step]
    sample_files += run.samples.glob(f"step_{row.step:08d}*.png")
    has_samples = any(file.exists() for file in sample_files)
    yield PageSection(
        "", _verdict(run, explanation, has_samples=has_samples, follow=follow), "lines"
    )
    recipe = shipped(run)
    tiles = [_tile(result, recipe.name if recipe else "") for result in best]
    yield PageSection("", [*tiles, *_effort(row)], "tiles")
    loss = chart("loss", {"loss": curves.get(LOSS, [])}) or text("No loss has been recorded.")
    yield PageSection("", [loss, *pictures[:1]], "pair")
    yield PageSection("", [_outside(run, follow)])
    starts = attempts(explanation.attempts, when=local_time)
    if past := table("Attempts, oldest first", starts.columns):
        yield PageSection("Attempts", [_time_line(explanation), past])
    else:
        yield PageSection("Attempts", [text("There are no attempts yet.")])
    yield PageSection("Evaluations", _evaluations(row, results))
    yield from _sweeps(run, row)
    tuned = sorted(row.tunings, key=itemgetter("nfe", "checkpoint_step", "id"))
    yield PageSection("Tuned samplers", [table(_TUNED, tunings(tuned).columns)])
    yield PageSection("Curves", _curves(curves))
    yield PageSection("Samples", pictures[1:], "pictures")
    yield PageSection("Recipe", _recipe(run))
    yield PageSection("Code and machines", [_facts(run, explanation)])


def readable_results(run: RunFolder) -> list[Result]:
    """The results of all finished evaluations, by step; none if the recipe cannot be read."""
    with contextlib.suppress(CldError, OSError):
        return sorted(results_of(run), key=attrgetter("step", "evaluation"))
    return []


def evaluation_columns(
    entries: Sequence[Mapping[str, Any]], results: Sequence[Result]
) -> dict[str, Sequence[Cell]]:
    """The columns of the table of `cldctl status`, and the settings of each evaluation.

    Args:
        entries: evaluations as `status` knows them.
    """
    settings: dict[str, dict[str, None]] = {entry["id"]: {} for entry in entries}
    for result in results:
        settings.setdefault(result.evaluation, {})[result.settings] = None
    cells = ["; ".join(settings[entry["id"]]) or "-" for entry in entries]
    return {**evaluations(entries).columns, "settings": cells}


def _nfe(number: Number | None) -> str:
    """The network evaluations of a result; empty if they are unknown."""
    return "" if number is None or number.nfe is None else f"{number.nfe:,.0f}"


def _verdict(
    run: RunFolder, explanation: Why, *, has_samples: bool, follow: bool
) -> Iterator[Markup]:
    """The state of the run in a sentence, its last failure, and commands to type next.

    Args:
        has_samples: whether there are samples of its last step.
    """
    row = explanation.row
    sentence = f"{row.state.capitalize()}: {explanation.headline}"
    if row.state == "RUNNING" and row.eta_s is not None:
        sentence += f"; about {duration(row.eta_s)} left"
    if row.as_of is not None:
        sentence += f" (as of {age(row.as_of)}: its cluster does not answer)"
    if not sentence.endswith((".", "?", "!")):
        sentence += "."
    yield text(sentence, "verdict")
    if row.steps:
        bar = Markup('<progress max="{}" value="{}" aria-label="steps done"></progress>')
        yield bar.format(row.steps, min(row.step, row.steps))
    if row.state in _FAILED and (failed := explanation.failed) is not None:
        rank = str(failed)
        reason = f": {one_line(failed.reason, 300)}" if failed.reason else "."
        yield text(f"{rank[0].upper()}{rank[1:]}{reason}", "red")
        if failed.file is not None and is_inside(run, failed.file.parent, follow=follow):
            last_lines = "\n".join(failed.lines[-_LAST_LINES:])
            yield part("folded", summary="Last output", content=last_lines)
    # Commands for what the page is or shows are left out.
    done = ("report ", "sample ") if has_samples else ("report ",)
    following = [
        code(command(words, run)) for words in explanation.next if not words.startswith(done)
    ]
    if following or explanation.do:
        yield text(Markup(" ").join(filter(None, ["Next:", explanation.do, *following])))
    yield text(row.note or "", "note")
    for warning in (*row.changes, *row.problems):
        yield text(warning, "warning")


def _outside(run: RunFolder, follow: bool) -> Markup:
    """A text that names the folders that are left out; empty if there are none."""
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
    reference = published(recipe, best.quantity.key)
    if best.truth is not None:
        digits = best.quantity.digits
        gap = best.number.value - best.truth
        beside = f"true entropy {best.truth:.{digits}f}, gap {gap:.{digits}f}"
    elif reference is not None:
        beside = f"published {'≤ ' if reference.bound else ''}{reference.value:g} ({reference.how})"
    elif best.floor is not None:
        floor = registry.quantity(f"{best.quantity.key}{FLOOR}")
        beside = f"{floor.label} {number_text(floor, best.floor)}"
    else:
        beside = ""
    nfe = _nfe(best.number)
    about = [f"step {best.step:,}", EmaSpec(length=best.ema_length).words, best.of]
    about.append(f"{nfe} NFE" if nfe else "")
    value = number_text(best.quantity, best.number)
    lines = [beside, ", ".join(filter(None, about))]
    return part("tile", label=best.quantity.label, value=value, about=lines)


def _effort(row: RunStatus) -> Iterator[Markup]:
    """Tiles of the loss, and of the hours that the training used."""
    if row.shown_loss is not None:
        about = f"step {count(row.step)}; last loss {number(row.loss)}"
        yield part("tile", label="loss (smoothed)", value=number(row.shown_loss), about=[about])
    used, _, about = usage_line(row.usage).partition(": ")
    if about:
        yield part("tile", label="used", value=used, about=[about])


def _time_line(explanation: Why) -> Markup:
    """Bars of the attempts over time, in the colour of the state in which each left the run."""
    stretches = explanation.stretches
    begin = min(stretch.began - stretch.waited_s for stretch in stretches)
    last = max(stretch.until for stretch in stretches)
    percent = 100 / max(last - begin, 1e-3)
    bars = []
    legend = {}
    for stretch, state, end in explanation.ends:
        attempt = stretch.attempt
        steps = f"steps {count(attempt.first_step)} to {count(attempt.last_step)}"
        for phase, since, until, colour in (
            ("queued", stretch.began - stretch.waited_s, stretch.began, "dim"),
            ("starting", stretch.began, stretch.started, "blue"),
            (end, stretch.started, stretch.until, colour_of(state)),
        ):
            if until - since >= 1 or until == stretch.until:
                left = (since - begin) * percent
                width = (until - since) * percent
                about = f"attempt {attempt.attempt}, {steps}: {phase}, {duration(until - since)}"
                bars.append((f"{colour} {phase}", left, width, about))
                legend[phase] = f"var(--{colour})"
    end_of_line = "now" if explanation.row.state == "RUNNING" else local_time(last)
    ends = [local_time(begin), duration(last - begin), end_of_line]
    return part("time_line", bars=bars, entries=legend.items(), ends=ends)


def _evaluations(row: RunStatus, results: Sequence[Result]) -> Iterator[Markup]:
    """Results against the step, the evaluations that are not part of a sweep, and remarks."""
    yield from _by_step(results)
    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    alone = [entry for entry in row.evals if entry["id"] not in swept]
    alone.sort(key=itemgetter("checkpoint_step", "id"))
    yield table("Evaluations, by step", evaluation_columns(alone, results))
    for remark in remarks(row.evals):
        yield text(remark.plain)
    if not row.evals:
        yield text("There are no evaluations.")


def _by_step(results: Sequence[Result]) -> Iterator[Markup]:
    """A chart for each quantity with results at several steps, with a line for each choice of
    settings."""
    for quantity in registry.quantities_in([{result.quantity.key} for result in results]):
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


def _sweeps(run: RunFolder, row: RunStatus) -> Iterator[PageSection]:
    """The sweeps of evaluations that can be read, oldest first."""
    for entry in row.sweeps:
        sweep = Sweep.load(run.evals / entry["id"])
        if sweep is None:
            continue
        cells = rows(run, sweep)
        quantities = results_in(cells)
        results = []
        nfe = []
        for cell in cells:
            own = {quantity.key: cell.numbers[quantity.key] for quantity in quantities}
            results.append(own)
            nfe.append(", ".join(sorted({*map(_nfe, own.values())} - {""})) or "-")
        columns: dict[str, Sequence[Cell]] = {}
        for axis in sweep.axes:
            columns[axis.key] = [cell.values[axis.key] for cell in cells]
        columns |= {**result_columns(results), "NFE": nfe}
        charts = []
        for quantity in quantities:
            title = f"{quantity.label}, by {sweep.axes[-1].key}"
            charts.append(drawing(title, partial(figure_of, sweep, cells, [quantity])))
        axes = " and ".join(axis.key for axis in sweep.axes)
        done = f"{entry['done']} of {len(entry['evaluations'])} evaluations are complete"
        results_table = table(f"Results by {axes}", columns)
        yield PageSection(
            f"Sweep over {axes}", [*charts, results_table, text(f"{entry['id']}: {done}")]
        )


def _curves(curves: Mapping[str, Points]) -> Iterator[Markup]:
    """Charts of the training except its loss: the losses by time in one, each other tag alone."""
    ranges = [tag.removeprefix(_BY_TIME) for tag in curves if tag.startswith(_BY_TIME)]
    ranges.sort(key=lambda times: float(times.partition("_")[0]))
    by_time = {f"t {times.replace('_', ' ')}": curves[f"{_BY_TIME}{times}"] for times in ranges}
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
        values = [[value for _, value in points] for points in members.values() if points]
        if all(map(_is_constant, values)):
            constant.append(f"{words} {number(values[-1][-1])}")
        elif len(values) > 1 or len(curves) == 1:
            yield chart(words, members)
    if constant and len(curves) == 1:
        yield text(f"Constant: {', '.join(constant)}.")


def _is_constant(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= _CONSTANT * max(map(abs, values))


def shipped(run: RunFolder) -> Recipe | None:
    """The shipped recipe that a run was made from; None if there is none that can be read."""
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


def software(run: RunFolder, attempts: Sequence[Attempt] = ()) -> dict[str, str]:
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


def _facts(run: RunFolder, explanation: Why) -> Markup:
    """Versions, code and machines, in words."""
    row = explanation.row
    attempts = explanation.history.attempts if row.is_readable else ()
    swept = [f"{key}={value}" for key, value in row.sweep.items()]
    saved = row.checkpoint_step
    facts = {
        "recipe": row.recipe,
        "created": " by ".join(filter(None, (local_time(row.created, unknown=""), row.user))),
        "begun": row.started_from,
        "submitted from": run.identity().get("host"),
        "group": " ".join(filter(None, [row.group, *swept])),
        "newest checkpoint": None if saved is None else f"step {count(saved)}",
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
    texts = {name: str(value) for name, value in facts.items() if value}
    return {"fact": list(texts), "value": list(texts.values())}


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
    recipes: dict[str, Mapping[str, Any]] = {}
    differences: list[Markup] = []
    for run in runs:
        pictures += gallery(run, follow=follow, most=1)[:1]
        try:
            recipes[run.name] = {**run.recipe().to_dict(), "commit": software(run)["commit"]}
        except (CldError, OSError) as error:
            reason = f"{run.name}: its recipe cannot be read: {one_line(error)}"
            differences.append(text(reason, "warning"))
    keys = table("Keys of the recipes", differing(recipes))
    differences.append(keys or text("The recipes are the same."))
    columns = run_columns(rows, swept_values(rows), all_results(rows))
    sections = [
        PageSection("", map(text, notes)),
        PageSection("Results", [_linked(rows, columns, folder)]),
        PageSection("Averages over seeds", _averages(groups)),
        PageSection("Loss", _losses(runs, recipes, curves)),
        PageSection("What differs", differences),
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
    file = page_of(run)
    if not file.is_file() or file.is_symlink():
        return Markup.escape(name)
    # The leading ./ keeps a name with a colon from being read as a URL scheme.
    link = quote(os.path.join(".", os.path.relpath(file, folder)))
    return Markup('<a href="{}">{}</a>').format(link, name)


def _losses(
    runs: Sequence[RunFolder],
    recipes: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Mapping[str, Points]],
) -> Iterator[Markup]:
    """Charts of the losses of the runs whose data, diffusion and objective agree."""
    of_losses = {}
    for name, recipe in recipes.items():
        of_losses[name] = {section: recipe[section] for section in _LOSS_OF}
    columns = differing(of_losses)
    charts: dict[str, dict[str, Points]] = {}
    for name, own in curves.items():
        title = f"{name}, recipe cannot be read"
        if name in recipes:
            settings = zip(columns["key"], columns[name], strict=True)
            texts = [f"{key}={value}" for key, value in settings if value != "null"]
            title = ", ".join(setting for setting in texts if not setting.startswith(_SAME))
        if LOSS in own:
            # A run has its colour in all charts.
            charts.setdefault(title or "loss", dict.fromkeys(curves, ()))[name] = own[LOSS]
    for title, members in charts.items():
        yield chart(title, members)
    if len(charts) > 1:
        yield text("Losses share a chart if data, diffusion and objective are the same.")
    if len(runs) > _DRAWN:
        yield text(f"Curves are those of the first {_DRAWN} runs.")


def _averages(groups: Sequence[Group]) -> Iterator[Markup]:
    """The lines of `cldctl compare`: one for each choice of the keys besides the seed."""
    lines: list[ComparedRuns] = []
    warnings: list[Markup] = []

    def leave_out(run: RunFolder, error: Exception) -> None:
        reason = f"{run.name} is left out, because it cannot be read: {one_line(error)}"
        warnings.append(text(reason, "warning"))

    for group in groups:
        lines += lines_of_group(group, "last", leave_out)[0]
    if lines:
        yield table(AVERAGES[:1].upper() + AVERAGES[1:], compared(lines).columns)
        yield text(rule(lines, RULE_OF_MEANS) or "")
    yield from warnings
