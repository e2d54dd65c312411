"""Results of evaluations and tunings, of sweeps, and of samplers, runs and groups compared."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType, group
from rich.text import Text

from cld_core import metrics as registry
from cld_core.files import write_text
from cld_core.metrics import Number
from cld_core.run import RunFolder
from cld_core.run.evaluations import Evaluation, Sweep
from cld_core.run.groups import Group
from cldctl.evals import results
from cldctl.runs import survey
from cldctl.runs.selection import command
from cldctl.runs.status import evaluation_status, message_of, tuning_status

from .console import count, err, number, out, say_incomplete, say_next, state_text
from .tables import (
    Cell,
    TextTable,
    columns_of,
    counts_of,
    number_text,
    numbers_of,
    result_columns,
    short_keys,
)

if TYPE_CHECKING:
    from cld_core.run.tunings import Tuning
    from cldctl.evals.samplers import Comparison

# The mark of the best result of a column.
BEST = "*"
# A line names at most so many evaluations.
_MOST_NAMES = 4
_STYLE = {"better": "bold green", "worse": "bold red"}


def evaluations(evals: Sequence[Mapping[str, Any]]) -> TextTable:
    """A table of evaluations of a run, with all results that any of them has."""
    columns = columns_of(
        {
            "evaluation": entry["id"],
            "state": state_text(entry["state"]),
            "shards": f"{entry['shards_done']}/{entry['shards']}",
            "step": count(entry["checkpoint_step"]),
            "of": ", ".join(counts_of(numbers_of(entry))) or "-",
        }
        for entry in evals
    )
    columns |= result_columns([numbers_of(entry) for entry in evals])
    truths = [entry["true_entropy"] for entry in evals]
    if any(truth is not None for truth in truths):
        columns["true entropy"] = ["-" if truth is None else f"{truth:.3f}" for truth in truths]
    return TextTable(
        columns, left=("evaluation", "state"), optional=("shards",), title="evaluations"
    )


def remarks(evals: Sequence[Mapping[str, Any]]) -> list[Text]:
    """The remarks on evaluations; a remark on several evaluations is one line."""
    names: dict[str, list[str]] = {}
    for entry in evals:
        for text in entry["remarks"]:
            names.setdefault(text, []).append(entry["id"])
    lines = []
    for text, ids in names.items():
        subject = ", ".join(ids) if len(ids) <= _MOST_NAMES else f"{len(ids)} evaluations"
        lines.append(Text(f"{subject}: {text}", "yellow"))
    return lines


def by_step(evals: Sequence[Mapping[str, Any]]) -> Iterator[TextTable]:
    """A table of the results against the step, for each choice of settings with several steps."""
    settings: dict[str, dict[int, Mapping[str, Any]]] = {}
    for entry in evals:
        if entry["results"]:
            settings.setdefault(entry["settings"], {})[entry["checkpoint_step"]] = entry
    for entries_by_step in settings.values():
        if len(entries_by_step) > 1:
            steps = sorted(entries_by_step)
            entries = [entries_by_step[step] for step in steps]
            result_cells = result_columns([numbers_of(entry) for entry in entries], with_count=True)
            columns = {"step": [count(step) for step in steps], **result_cells}
            yield TextTable(columns, title=f"{', '.join(entries[0]['metrics'])} against the step")


@group()
def sweep_table(
    sweep: Sweep,
    rows: Sequence[results.SweptResults],
    evals: Mapping[str, Mapping[str, Any]],
    best: Collection[tuple[str, int]] | None = None,
) -> Iterator[RenderableType]:
    """A table for each quantity, with the last axis across.

    A cell without a result shows the state of its evaluation.

    Args:
        evals: the evaluations of the sweep, as entries of `status`, by name.
        best: results to mark, as (key, index of the row); None to mark none.
    """
    states = [evals.get(row.evaluation, {}).get("state", "-").lower() for row in rows]
    quantities = results.results_in(rows)
    for quantity in quantities:
        cells = []
        counts = set()
        for index, (row, state) in enumerate(zip(rows, states, strict=True)):
            number = row.numbers[quantity.key]
            # A finished evaluation may not have this result.
            cell = "-" if state == "finished" else state
            if number is not None:
                cell = number_text(quantity, number)
                counts.update(counts_of({quantity.key: number}))
                if best is not None:
                    cell += BEST if (quantity.key, index) in best else " "
            cells.append(cell)
        yield _across(sweep, rows, cells, quantity.label, counts)
    if not quantities:
        yield _across(sweep, rows, states, "states")


def _across(
    sweep: Sweep,
    rows: Sequence[results.SweptResults],
    cells: Sequence[str],
    label: str,
    counts: Collection[str] = (),
) -> TextTable:
    """The cells of a sweep as a table: a line for each choice on all axes except the last.

    Args:
        counts: numbers of samples or points; the title has them if all cells agree.
    """
    *down, across = sweep.axes
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row, cell in zip(rows, cells, strict=True):
        values = tuple(row.values[axis.key] for axis in down) or (label,)
        lines.setdefault(values, {})[row.values[across.key]] = cell
    headings = list(short_keys([axis.key for axis in down]).values()) or [""]
    columns = dict(zip(headings, map(list, zip(*lines, strict=True)), strict=True))
    for value in across.values:
        heading = f"{across.key.rpartition('.')[2]} {value}"
        columns[heading] = [line.get(value, "-") for line in lines.values()]
    title = f"{label} by {' and '.join(axis.key for axis in sweep.axes)}"
    if len(counts) == 1:
        title += f", {next(iter(counts))}"
    return TextTable(columns, left=headings, title=title)


@group()
def samplers(
    run: RunFolder, sweep: Sweep, statuses: Sequence[Mapping[str, Any]]
) -> Iterator[RenderableType]:
    """Samplers side by side: a table for each metric, its bounds, and published results.

    Args:
        statuses: the evaluations of the sweep, as entries of `status`.
    """
    from cld_core.evaluate.published import published_samplers
    from cldctl.evals.samplers import best

    rows = results.rows(run, sweep)
    marked = best(run, sweep, rows)
    yield sweep_table(sweep, rows, {entry["id"]: entry for entry in statuses}, marked)
    yield from map(Text, _notes(run, sweep, rows, is_marked=bool(marked)))
    columns = columns_of(
        {
            "model": entry.model,
            "sampler": entry.sampler,
            "NFE": count(entry.nfe),
            "FID": f"{entry.fid:.2f}",
            "source": entry.source,
        }
        for entry in published_samplers(run.recipe().data.name)
    )
    if columns:
        yield Text()
        left = ("model", "sampler", "source")
        title = "published, not measured here"
        yield TextTable(columns, left=left, optional=["source"], names="model", title=title)


def _notes(
    run: RunFolder, sweep: Sweep, rows: Sequence[results.SweptResults], *, is_marked: bool
) -> Iterator[str]:
    """The legend of a comparison of samplers, a line each."""
    from cldctl.evals.samplers import references

    if is_marked:
        yield (
            f"{BEST} the best sampler for this number of evaluations (log-density: the one nearest "
            f"to the truth)"
        )
    if any(number is not None and number.lost for row in rows for number in row.numbers.values()):
        yield "lost: samples that are not finite; results leave them out, and are not compared"
    repeats = max(len(cell.evaluations) for cell in sweep.cells)
    if repeats > 1:
        yield f"mean of {repeats} seeds ± its standard error"
    reference = references(run, sweep)
    if "w2_floor" in reference:
        floor = Number(reference["w2_floor"], reference.get("w2_floor_stderr"))
        text = number_text(registry.quantity("w2_floor"), floor)
        yield f"sliced W2 of two true sets: {text}"
    if "true_density" in reference:
        yield f"log-density of the truth: {reference['true_density']:.3f} nats"
    if "flow_nfe" in reference:
        nfe = f"{reference['flow_nfe']:,.0f}"
        yield f"the flow that samples are compared with took {nfe} evaluations"


def compared(lines: Sequence[results.ComparedRuns]) -> TextTable:
    """A table of results of runs, and of groups: a line for each cell, averaged over seeds.

    Results that differ from the first line by more than their errors are marked.
    """
    has_groups = any(len(line.columns) > 1 for line in lines)
    names = "group or run" if has_groups else "run"
    keys = short_keys(list(dict.fromkeys(key for line in lines for key in line.cell)))
    present = registry.quantities_in(column.results for line in lines for column in line.columns)
    rows = []
    for line in lines:
        own_results = line.results.values()
        of = dict.fromkeys(result.of for result in own_results if result.of)
        how = dict.fromkeys(result.settings for result in own_results)
        row: dict[str, Cell | None] = {
            names: line.name,
            **{head: line.cell.get(key) for key, head in keys.items()},
            "step": _step(line),
            "runs": str(len(line.columns)) if has_groups else None,
            **{quantity.label: _result(lines[0], line, quantity) for quantity in present},
            "of": Text(", ".join(of) or "-", "dim"),
            "how": Text("; ".join(how) or "-", "dim"),
        }
        rows.append(row)
    columns = columns_of(rows)
    return TextTable(
        columns, left=(names, "of", "how"), optional=("how",), names=names, wraps="how"
    )


def _step(line: results.ComparedRuns) -> str:
    steps = line.columns[0].steps
    if steps is None or steps == line.step:
        return count(line.step)
    return f"{count(line.step)} of {count(steps)}"


def _result(
    first: results.ComparedRuns, line: results.ComparedRuns, quantity: registry.Quantity
) -> Cell:
    """A mean with its error, and the number of runs that have the result if some lack it."""
    runs = len(line.by_run(quantity.key))
    if not runs:
        return "-"
    text = number_text(quantity, line.average(quantity.key))
    if runs < len(line.columns):
        text += f" ({runs} run{'' if runs == 1 else 's'})"
    if first is line or quantity.key not in first.results:
        return text
    mark = results.verdict(first.results[quantity.key], line.results[quantity.key])
    return Text(f"{text} {mark}", _STYLE[mark]) if mark in _STYLE else text


def show_compared(chosen: Sequence[Group | RunFolder], checkpoint: str, as_json: bool) -> None:
    """Print the results of runs and groups side by side.

    A run that cannot be read is left out, and named on stderr.

    Raises:
        NotFoundError: a run, or all runs of the groups, have no results, or no results can be read.
    """

    def spare(run: RunFolder, error: Exception) -> None:
        err.print(f"{run.name} is left out: {message_of(error)}", style="yellow")

    comparison = results.side_by_side(chosen, checkpoint, spare)
    if as_json:
        print(json.dumps(comparison.to_dict(), indent=1))
        return
    out.print(compared(comparison.lines))
    for name in comparison.missing:
        err.print(f"{name} has no finished evaluation (--checkpoint {checkpoint})")
    for text in comparison.remarks:
        err.print(text)


def statuses_of(works: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Evaluations as entries of `status`."""
    submitted = (event.job for work in works for event in work.history().submitted)
    answers = survey.ask(submitted, max_age_s=survey.TO_LOOK_S)
    return [evaluation_status(work, answers) for work in works]


def say_files(run: RunFolder, sweep: Sweep) -> None:
    """Write the table and the picture of a complete sweep, and print their paths."""
    results.write_finished(run)
    for name in ("table.csv", "plot.png"):
        out.print(str(run.evals / sweep.id / name), no_wrap=True)


def show_plan(run: RunFolder, comparison: "Comparison") -> None:
    """Print the samplers that would be compared."""
    names, nfe = (axis.values for axis in comparison.sweep.axes)
    columns = {"sampler": names, "settings": [comparison.settings[name] for name in names]}
    out.print(TextTable(columns, left=columns, wraps="settings"))
    metrics = (
        f"{', '.join(comparison.metrics)} at {', '.join(nfe)} evaluations; {comparison.seeds} seeds"
    )
    out.print(f"{run.name}, step {comparison.requests[0].checkpoint_step}: {metrics}")
    out.print(f"{len(comparison.requests)} evaluations; none was started")


def show_samplers(
    works: Sequence[Evaluation],
    comparison: "Comparison",
    as_json: bool,
    csv: Path | None,
    image: Path | None,
    *,
    waited: bool,
) -> int:
    """Print the results of a comparison of samplers, and write its files; return the exit code.

    Args:
        waited: whether the command has waited for the evaluations. Then missing ones are a failure.
    """
    from cldctl.evals.samplers import to_json, to_table

    run = works[0].run
    statuses = statuses_of(works)
    missing = [entry["id"] for entry in statuses if entry["state"] != "FINISHED"]
    if as_json:
        content = to_json(run, comparison.sweep, comparison.settings)
        print(
            json.dumps(
                {**content, "left_out": comparison.left_out, "noisy": comparison.noisy}, indent=1
            )
        )
    else:
        out.print(samplers(run, comparison.sweep, statuses))
        if comparison.noisy:
            noisy = ", ".join(comparison.noisy)
            out.print(f"-  draws noise, and so has no distance from the flow: {noisy}")
    if missing:
        see = command(f"status {run.name}", run)
        err.failure(f"{len(missing)} of {len(statuses)} evaluations are not complete; see `{see}`")
        return int(waited)
    if not as_json:
        say_files(run, comparison.sweep)
    if csv is not None:
        write_text(csv, to_table(run, comparison.sweep))
    if image is not None:
        results.plot(image, comparison.sweep, results.rows(run, comparison.sweep), run.name)
    for file in filter(None, (csv, image)):
        err.print(str(file), no_wrap=True)
    return 0


def show_tunings(run: RunFolder, works: "Sequence[Tuning]", as_json: bool, waited: bool) -> int:
    """Print the tunings that are complete, or the names of the others; return the exit code.

    Args:
        waited: whether the command has waited for the tunings. Then missing ones are a failure.
    """
    done = [work for work in works if work.is_done]
    missing = [work for work in works if work not in done]
    if as_json:
        entries = [_tuning_to_json(work) for work in works]
        print(json.dumps({"run": run.name, "tunings": entries}, indent=1))
    elif done:
        out.print(tunings([tuning_status(work, survey.Answers({})) for work in done]))
        err.print("rms distance from the network's own flow on held-out noise, per coordinate")
        for work in done:
            if work.solution is not None and work.solution.cut_off:
                err.print(
                    f"{work.name} is cut off: its budget was spent before the last iteration; a "
                    "larger --budget continues from there",
                    style="yellow",
                )
    else:
        out.print("\n".join(work.name for work in missing))
    if missing and waited:
        return say_incomplete(missing)
    if missing:
        err.print(f"logs: {missing[0].folder / 'logs'}; run it again with --follow to watch")
    else:
        say_next(run, f"sample {run.name} --method tuned --nfe {works[-1].request.nfe}")
    return 0


def _tuning_to_json(work: "Tuning") -> dict[str, Any]:
    entry = {"id": work.name, "nfe": work.request.nfe, "step": work.request.checkpoint_step}
    solution = work.solution
    if solution is not None:
        entry |= {
            "kept": solution.kept,
            "cut_off": solution.cut_off,
            "rms": dict(solution.rms),
            "digest": solution.digest,
            "file": str(work.folder / "solution.json"),
            "about": dict(solution.about),
        }
    return entry


def tunings(entries: Sequence[Mapping[str, Any]]) -> TextTable:
    """A table of tunings, as entries of `status`: progress, distances from the flow, gain."""
    columns = columns_of(
        {
            "tuning": entry["id"],
            "state": state_text(entry["state"]),
            "NFE": str(entry["nfe"]),
            "step": count(entry["checkpoint_step"]),
            "rows": f"{count(entry['rows_done'])}/{count(entry['rows'])}",
            "kept": _kept(entry),
            "untuned rms": number(entry["rms"].get("untuned"), 3),
            "rms": number(entry["rms"].get(entry["kept"]), 3),
            "gain": "-" if entry["gain"] is None else f"{entry['gain']:.1f}x",
        }
        for entry in entries
    )
    left = ("tuning", "state", "kept")
    return TextTable(columns, left=left, optional=("step",), title="tunings")


def _kept(entry: Mapping[str, Any]) -> str:
    kept = entry["kept"] or "-"
    return f"{kept}, cut off" if entry["cut_off"] else kept
