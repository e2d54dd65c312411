"""Results: evaluations and tunings of a run, sweeps, samplers side by side, and runs or groups side
by side."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType, group
from rich.text import Text

from cld_core import metrics as registry
from cld_core.errors import NotFoundError, RecipeError
from cld_core.evaluate.published import published_samplers
from cld_core.files import write_text
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation, Sweep
from cld_core.run.groups import Group
from cld_core.run.tunings import Tuning
from cldctl.evals import results
from cldctl.evals.results import keys_of, quantities_in
from cldctl.evals.samplers import Comparison, best, references, to_json, to_table
from cldctl.runs import survey
from cldctl.runs.selection import command
from cldctl.runs.status import evaluation_status, said, tuning_status

from .console import count, err, number, out, say_next
from .tables import Cell, short_keys, state_text, table

# What follows the best result of a column.
BEST = "*"
_STYLE = {"better": "bold green", "worse": "bold red"}


def result_of(
    entry: Mapping[str, Any], quantity: registry.Quantity, *, with_count: bool = False
) -> str:
    """A result of an evaluation's row of ``status``; a dash if it has none.

    Args:
        with_count: add of how many samples or test points it is.
    """
    result = entry["results"].get(quantity.key)
    if not result:
        return "-"
    text, of = (
        result_text(quantity, result["value"], result["stderr"]),
        counts_of(entry, [quantity]),
    )
    return f"{text} ({', '.join(of)})" if with_count and of else text


def counts_of(
    entry: Mapping[str, Any],
    quantities: Sequence[registry.Quantity] | None = None,
    show: Callable[[int], str] = count,
) -> list[str]:
    """Of how many samples and test points the results of an evaluation are: ["50,000 samples",
    "2,000 points"].

    Args:
        quantities: of which results; None for all.
    """
    words = (
        f"{show(result['n'])} {registry.ROWS[metric.rows].over}"
        for metric, quantity in registry.quantities()
        if (quantities is None or quantity in quantities)
        and (result := entry["results"].get(quantity.key))
        if result.get("n") is not None
    )
    return list(dict.fromkeys(words))


def result_text(quantity: registry.Quantity, value: float, stderr: float | None) -> str:
    """A result and its standard error, with the decimals of its kind."""
    error = "" if stderr is None else f" ± {stderr:.{quantity.digits}f}"
    return f"{value:.{quantity.digits}f}{error}"


def cell_text(quantity: registry.Quantity, row: Mapping[str, Any]) -> str:
    """A result of a row of a sweep (`evals.results.rows`), with the share of lost samples.

    A dash if the row does not have the result.
    """
    if row[quantity.key] is None:
        return "-"
    text = result_text(quantity, row[quantity.key], row[f"{quantity.key}_stderr"])
    share = row.get(f"{quantity.key}_nonfinite")
    return f"{text} ({100 * share:.2g}% lost)" if share else text


def evaluations(evals: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Evaluations of a run, with those results that any of them has."""
    columns: dict[str, Sequence[Cell]] = {
        "evaluation": [entry["id"] for entry in evals],
        "state": [state_text(entry["state"]) for entry in evals],
        "shards": [f"{entry['shards_done']}/{entry['shards']}" for entry in evals],
        "step": [count(entry["checkpoint_step"]) for entry in evals],
        "of": [", ".join(counts_of(entry)) or "-" for entry in evals],
        **{
            it.label: [result_of(entry, it) for entry in evals]
            for it in quantities_in(it["results"] for it in evals)
        },
    }
    truths = [
        "-" if entry["true_entropy"] is None else f"{entry['true_entropy']:.3f}" for entry in evals
    ]
    columns |= {"true entropy": truths} if {*truths} != {"-"} else {}
    return table(columns, left=("evaluation", "state"), optional=("shards",), title="evaluations")


def remarks(evals: Sequence[Mapping[str, Any]]) -> list[Text]:
    """What is unusual about the results of evaluations, a line each."""
    return [
        Text(f"{entry['id']}: {text}", "yellow") for entry in evals for text in entry["remarks"]
    ]


def by_step(evals: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """For settings with results at several steps, a table of the results against the step."""
    settings: dict[str, dict[int, Mapping[str, Any]]] = {}
    for entry in evals:
        if entry["results"]:
            settings.setdefault(entry["settings"], {})[entry["checkpoint_step"]] = entry
    for entries in (
        [alike[step] for step in sorted(alike)] for alike in settings.values() if len(alike) > 1
    ):
        columns = {"step": [count(entry["checkpoint_step"]) for entry in entries]}
        for it in quantities_in(entry["results"] for entry in entries):
            columns[it.label] = [result_of(entry, it, with_count=True) for entry in entries]
        yield table(columns, title=f"{', '.join(entries[0]['metrics'])} against the step")


@group()
def sweep_table(
    sweep: Sweep,
    rows: Sequence[Mapping[str, Any]],
    evals: Mapping[str, Mapping[str, Any]],
    best: Collection[tuple[str, int]] | None = None,
) -> Iterator[RenderableType]:
    """A table for each result, the last axis across; cells without one show the state of their
    evaluation.

    Args:
        evals: the evaluations of the sweep as `status` knows them, by their names.
        best: results that are marked, as (key, number of the row); None to mark none.
    """
    *down, across = sweep.axes
    heads = list(short_keys([axis.key for axis in down]).values()) or [""]
    for key in keys_of(rows) or [""]:
        quantity = registry.quantity(key) if key else None
        label = "states" if quantity is None else quantity.label
        lines: dict[tuple[str, ...], dict[str, str]] = {}
        for place, row in enumerate(rows):
            cells = lines.setdefault(tuple(str(row[axis.key]) for axis in down) or (label,), {})
            if quantity is not None and row[quantity.key] is not None:
                mark = "" if best is None else BEST if (key, place) in best else " "
                cells[row[across.key]] = cell_text(quantity, row) + mark
            else:
                state = evals.get(row["evaluation"], {}).get("state", "-").lower()
                # It is finished, and does not have this result.
                cells[row[across.key]] = (
                    "-" if quantity is not None and state == "finished" else state
                )
        columns = dict(zip(heads, map(list, zip(*lines, strict=True)), strict=True))
        shown = {
            f"{across.key.split('.')[-1]} {value}": [
                cells.get(value, "-") for cells in lines.values()
            ]
            for value in across.values
        }
        title = (
            f"{label} by "
            f"{' and '.join(axis.key for axis in sweep.axes)}{_count_of(sweep, evals, quantity)}"
        )
        yield table(columns | shown, left=columns, title=title)


def _count_of(
    sweep: Sweep, evals: Mapping[str, Mapping[str, Any]], quantity: registry.Quantity | None
) -> str:
    """Of how many samples or test points the results of a sweep are, unless they differ in that."""
    only = [] if quantity is None else [quantity]
    counts = {
        text for name in sweep.evaluations if name in evals for text in counts_of(evals[name], only)
    }
    return f", {counts.pop()}" if len(counts) == 1 else ""


@group()
def samplers(
    run: RunFolder, sweep: Sweep, statuses: Sequence[Mapping[str, Any]]
) -> Iterator[RenderableType]:
    """Samplers side by side: a table for each metric, what samples could reach, and what is
    published.

    Args:
        statuses: the evaluations of the sweep as `status` knows them; cells without a result show
            their states.
    """
    found = results.rows(run, sweep)
    marked = best(run, sweep, found)
    yield sweep_table(sweep, found, {entry["id"]: entry for entry in statuses}, marked)
    yield from map(Text, _notes(run, sweep, found, is_marked=bool(marked)))
    if known := published_samplers(run.recipe().data.name):
        columns = {
            "model": [it.model for it in known],
            "sampler": [it.sampler for it in known],
            "NFE": [count(it.nfe) for it in known],
            "FID": [f"{it.fid:.2f}" for it in known],
            "source": [it.source for it in known],
        }
        left, title = ("model", "sampler", "source"), "published, not measured here"
        yield from (
            Text(),
            table(columns, left=left, optional=["source"], names="model", title=title),
        )


def _notes(
    run: RunFolder, sweep: Sweep, found: Sequence[Mapping[str, Any]], *, is_marked: bool
) -> Iterator[str]:
    if is_marked:
        yield (
            f"{BEST} the best of those that took as many evaluations (log-density: nearest to "
            f"the truth)"
        )
    if any(name.endswith("_nonfinite") for name in found[0]):
        yield "lost: samples that are not finite; results are of the others, and not compared"
    repeats = max(len(cell.evaluations) for cell in sweep.cells)
    if repeats > 1:
        yield f"mean of {repeats} seeds ± its standard error"
    known = references(run, sweep)
    if "w2_floor" in known:
        floor = result_text(
            registry.quantity("w2_floor"), known["w2_floor"], known.get("w2_floor_stderr")
        )
        yield f"sliced W2 of two true sets: {floor}"
    if "true_density" in known:
        yield f"log-density of the truth: {known['true_density']:.3f} nats"
    if "flow_nfe" in known:
        yield f"the flow that samples are compared with took {known['flow_nfe']:,.0f} evaluations"


def compared(lines: Sequence[results.Line]) -> RenderableType:
    """Results of runs, and of groups: a line for each cell, averaged over seeds.

    What differs from the first line by more than the errors is marked.
    """
    columns = average_columns(lines, lines[0])
    quantities = quantities_in(column.results for line in lines for column in line.columns)
    ones = [
        [found.one for it in quantities if (found := line.average(it.key)) is not None]
        for line in lines
    ]
    columns["of"] = [
        Text(", ".join(dict.fromkeys(it.of for it in own if it.of)) or "-", "dim") for own in ones
    ]
    columns["how"] = [Text("; ".join(dict.fromkeys(map(_how, own))) or "-", "dim") for own in ones]
    names = next(iter(columns))
    return table(columns, left=(names, "of", "how"), optional=("how",), names=names, wraps="how")


def average_columns(
    lines: Sequence[results.Line], first: results.Line | None = None
) -> dict[str, Sequence[Cell]]:
    """Names, cells, steps and results of lines, with their errors.

    Args:
        first: a line from which the others differ by more than the errors where that is marked.
    """
    heads = short_keys(list(dict.fromkeys(key for line in lines for key in line.cell)))
    has_groups = any(len(line.columns) > 1 for line in lines)
    quantities = quantities_in(column.results for line in lines for column in line.columns)
    return {
        "group or run" if has_groups else "run": [line.name for line in lines],
        **{head: [line.cell.get(key, "-") for line in lines] for key, head in heads.items()},
        "step": [_step(line) for line in lines],
        **({"runs": [str(len(line.columns)) for line in lines]} if has_groups else {}),
        **{it.label: [_result(first, line, it) for line in lines] for it in quantities},
    }


def _step(line: results.Line) -> str:
    steps = line.columns[0].steps
    return (
        count(line.step) if steps in (None, line.step) else f"{count(line.step)} of {count(steps)}"
    )


def _result(first: results.Line | None, line: results.Line, quantity: registry.Quantity) -> Cell:
    """A mean with its error, and of how many runs it is if not of all of the line; "-" if there is
    none."""
    average, runs = line.average(quantity.key), len(line.columns)
    if average is None:
        return "-"
    text = result_text(quantity, average.mean, average.error)
    text += "" if average.n == runs else f" ({average.n} run{'' if average.n == 1 else 's'})"
    if first is None or first is line or quantity.key not in first.results:
        return text
    mark = results.verdict(first.results[quantity.key], line.results[quantity.key])
    return Text(f"{text} {mark}", _STYLE[mark]) if mark in _STYLE else text


def _how(it: results.Result) -> str:
    return it.how + ("" if it.number.nfe is None else f", {it.number.nfe:.0f} NFE")


def show_compared(chosen: Sequence[Group | RunFolder], checkpoint: str, as_json: bool) -> None:
    """Print results side by side: of groups, averaged over seeds; of runs alone, marked against the
    first one.

    A run that cannot be read is left out, and named on stderr.

    Raises:
        NotFoundError: a run, or all of the groups, have no results, or none can be read.
        UsageError: these cannot be compared.
    """

    def spare(run: RunFolder, error: Exception) -> None:
        err.print(f"{run.name} is left out: {said(error)}", style="yellow")

    of_step = "" if checkpoint == "last" else f" of step {checkpoint}"
    lines: list[results.Line] = []
    missing: list[str] = []
    has_groups = any(isinstance(one, Group) for one in chosen)
    for one in {one.name: one for one in chosen}.values() if has_groups else chosen:
        if isinstance(one, Group):
            found, without = results.lines_of_group(one, checkpoint, spare)
            lines += found
            missing += without
        else:
            first = lines[0].columns[0] if lines else None
            try:
                lines.append(results.Line(one.name, {}, (results.column(one, checkpoint, first),)))
            except (RecipeError, OSError) as error:
                spare(one, error)
    if not lines:
        names, fix = (
            ", ".join(it.name for it in chosen),
            f"Make some: `cldctl eval {chosen[0].name} --elbo`.",
        )
        raise NotFoundError(
            f"no run of {names} has a finished evaluation{of_step} that can be read. {fix}"
        )
    if has_groups:
        content = results.group_json(lines, missing)
        texts = [f"{name} has no finished evaluation{of_step}" for name in missing]
        rule = results.rule(lines, results.RULE_OF_MEANS)
        texts += [*results.group_warnings(lines), results.AVERAGES, rule or ""]
    else:
        columns = [line.columns[0] for line in lines]
        content = results.run_json(columns)
        texts = [
            *results.differences(columns),
            *results.warnings(columns),
            results.rule(columns) or "",
        ]
    if as_json:
        print(json.dumps(content, indent=1))
        return
    out.print(compared(lines))
    for text in filter(None, texts):
        err.print(text)


def statuses_of(works: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """State and results of evaluations, as `status` knows them."""
    submitted = (event.job for work in works for event in work.ledger.history().submitted)
    answers = survey.ask(submitted, max_age_s=survey.TO_LOOK_S)
    return [evaluation_status(work, answers) for work in works]


def say_files(run: RunFolder, sweep: Sweep) -> None:
    """Write table and picture of a complete sweep, and print where they are."""
    results.write_finished(run)
    for name in ("table.csv", "plot.png"):
        out.print(str(run.evals / sweep.id / name), no_wrap=True)


def show_plan(run: RunFolder, made: Comparison) -> None:
    """Print the samplers that would be compared."""
    names = made.sweep.axes[0].values
    settings = [made.settings[name] for name in names]
    columns = {"sampler": names, "settings": settings}
    out.print(table(columns, left=columns, wraps="settings"))
    nfe = ", ".join(made.sweep.axes[1].values)
    text = f"{', '.join(made.metrics)} at {nfe} evaluations; {made.seeds} seeds"
    out.print(f"{run.name}, step {made.requests[0].checkpoint_step}: {text}")
    out.print(f"{len(made.requests)} evaluations, of which nothing was started")


def show_samplers(
    works: Sequence[Evaluation],
    made: Comparison,
    as_json: bool,
    csv: Path | None,
    image: Path | None,
    *,
    waited: bool,
) -> int:
    """Print the results of a comparison of samplers, and write the files; returns the exit code."""
    run, statuses = works[0].run, statuses_of(works)
    missing = [entry["id"] for entry in statuses if entry["state"] != "FINISHED"]
    if as_json:
        found = to_json(run, made.sweep, made.settings)
        print(json.dumps({**found, "left_out": made.left_out, "noisy": made.noisy}, indent=1))
    else:
        out.print(samplers(run, made.sweep, statuses))
        if made.noisy:
            out.print(
                f"-  draws noise, and so has no distance from the flow: {', '.join(made.noisy)}"
            )
    if missing:
        see = command(f"status {run.name}", run)
        err.failure(f"{len(missing)} of {len(statuses)} evaluations are not complete; see `{see}`")
        return int(waited)
    if not as_json:
        say_files(run, made.sweep)
    if csv is not None:
        write_text(csv, to_table(run, made.sweep))
    if image is not None:
        cells = results.rows(run, made.sweep)
        results.plot(image, made.sweep, cells, keys_of(cells), run.name)
    for file in filter(None, (csv, image)):
        err.print(str(file), no_wrap=True)
    return 0


def show_tunings(run: RunFolder, works: Sequence[Tuning], as_json: bool, waited: bool) -> int:
    """Print the tunings that are complete, or the names of the others; returns the exit code."""
    done = [work for work in works if work.is_done]
    missing = [work.name for work in works if work not in done]
    if as_json:
        print(
            json.dumps(
                {"run": run.name, "tunings": [_tuning_to_json(work) for work in works]}, indent=1
            )
        )
    elif done:
        out.print(tunings([tuning_status(work, survey.Answers({})) for work in done]))
        err.print("rms distance from the network's own flow on held-out noise, per coordinate")
        for work in done:
            if work.solution is not None and work.solution.cut_off:
                text = (
                    "its budget was spent before the last iteration; a larger --budget goes on "
                    "from there"
                )
                err.print(f"{work.name} is cut off: {text}", style="yellow")
    else:
        out.print("\n".join(missing))
    if missing and waited:
        for name in missing:
            err.failure(
                f"{name} is not complete; see {run.tuned / name / 'logs'}, and run the same "
                f"command again"
            )
        return 1
    if missing:
        err.print(f"logs: {run.tuned / missing[0] / 'logs'}; run it again with --follow to watch")
    else:
        say_next(run, f"sample {run.name} --method tuned --nfe {works[-1].request.nfe}")
    return 0


def _tuning_to_json(work: Tuning) -> dict[str, Any]:
    entry = {"id": work.name, "nfe": work.request.nfe, "step": work.request.checkpoint_step}
    if (found := work.solution) is None:
        return entry
    results = {
        "kept": found.kept,
        "cut_off": found.cut_off,
        "rms": dict(found.rms),
        "digest": found.digest,
    }
    return {
        **entry,
        **results,
        "file": str(work.folder / "solution.json"),
        "about": dict(found.about),
    }


def tunings(entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Tunings as `status` knows them."""
    return table(
        tuning_columns(entries),
        left=("tuning", "state", "kept"),
        optional=("step",),
        title="tunings",
    )


def tuning_columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Cell]]:
    """Tunings: how far they are, rms distances from the network's flow, and what was gained."""
    return {
        "tuning": [it["id"] for it in entries],
        "state": [state_text(it["state"]) for it in entries],
        "NFE": [str(it["nfe"]) for it in entries],
        "step": [count(it["checkpoint_step"]) for it in entries],
        "rows": [f"{count(it['rows_done'])}/{count(it['rows'])}" for it in entries],
        "kept": [f"{it['kept'] or '-'}{', cut off' if it['cut_off'] else ''}" for it in entries],
        "untuned rms": [number(it["rms"].get("untuned"), 3) for it in entries],
        "rms": [number(it["rms"].get(it["kept"]), 3) for it in entries],
        "gain": ["-" if it["gain"] is None else f"{it['gain']:.1f}x" for it in entries],
    }
