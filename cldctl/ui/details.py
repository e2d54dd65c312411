"""Everything about a run: facts, attempts, evaluations, sweeps."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cld_core.evaluation.results import METRICS, Metric
from cld_core.run import RunFolder
from cldctl.cluster.state import RunStatus
from cldctl.evals import sweep as sweeps

from .console import out
from .format import age, count, duration, number, signed
from .sweeps import by_step, sweep_table
from .tables import PADDING, plain_table, progress_bar, result_of, state_text

# So much of an evaluation's name is to stand in one line of a table.
_NAME_WIDTH = 16


def details(rows: Sequence[RunStatus], *, old: bool = False) -> RenderableType:
    """Everything about each of a few runs; ``old``: with the age of the state, as in `overview`."""
    return Group(*(_details(row, old) for row in rows))


def _details(row: RunStatus, old: bool) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")

    def fact(name: str, value: RenderableType) -> None:
        # Text, since paths and messages may hold what rich takes for markup.
        facts.add_row(name, Text(value) if isinstance(value, str) else value)

    fact("run", Text(row.name, style="bold"))
    when = f" as of {age(row.updated or row.created)}" if old else ""
    fact("state", Text.assemble(state_text(row.state), when, f"  {row.reason}" if row.reason else ""))
    share = f"  ({100 * row.step / row.steps:.1f}%)" if row.steps else ""
    fact("step", f"{count(row.step)} of {count(row.steps)}{share}")
    if out.is_terminal:
        fact("", progress_bar(row))
    fact("loss", number(row.loss, 5))
    if row.steps_per_s is not None:
        fact("rate", f"{number(row.steps_per_s, 3)} steps/s, ETA {duration(row.eta_s)}")
    fact("checkpoint", "none" if row.checkpoint_step is None else f"step {count(row.checkpoint_step)}")
    fact("updated", age(row.updated))
    if row.job_id is not None:
        fact("job", f"{row.cluster} {row.job_id}" + (f" on {row.host}" if row.host else ""))
    fact("folder", row.path)
    parts: list[RenderableType] = [facts]
    if row.attempts:
        parts += [Text(), _attempts(row.attempts, said=row.reason)]
    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    alone = [entry for entry in row.evals if entry["id"] not in swept]
    if alone:
        parts += [Text(), evaluations(alone)]
    for table in by_step(alone):
        parts += [Text(), table]
    states = {entry["id"]: entry["state"] for entry in row.evals}
    run = RunFolder(row.path)
    for entry in row.sweeps:
        sweep = sweeps.Sweep.load(run.evals / entry["id"])
        if sweep is not None:
            title = f"{entry['id']}: {entry['done']} of {len(entry['evaluations'])} evaluations complete"
            parts += [Text(), Text(title, style="bold"), sweep_table(sweep, sweeps.rows(run, sweep), states)]
    return Group(*parts, Text())


def _attempts(attempts: Sequence[dict[str, Any]], said: str | None) -> Table:
    """All attempts; details that are the state's reason are ``said`` already."""
    table = plain_table(title="attempts")
    for heading in ("attempt", "job", "from", "to", "lasted", "ended by"):
        table.add_column(heading, justify="left" if heading in ("job", "ended by") else "right", overflow="fold")
    for entry in attempts:
        lasted = entry["ended"] - entry["started"] if entry["ended"] is not None else None
        why = (entry["cause"] or "-") + (f": {entry['detail']}" if entry["detail"] not in (None, "", said) else "")
        first, last = count(entry["first_step"]), count(entry["last_step"])
        cells = (str(entry["attempt"]), str(entry["job_id"]), first, last, duration(lasted), why)
        table.add_row(*map(Text, cells))
    return table


def evaluations(evals: Sequence[dict[str, Any]]) -> RenderableType:
    """Evaluations of a run, with those results that any of them has: a table, or lists where no number is to be cut."""
    metrics = [metric for metric in METRICS if any(metric.key in entry["results"] for entry in evals)]
    truth = any(entry["true_entropy"] is not None for entry in evals)
    headings = ["state", "shards", "step", *(metric.label for metric in metrics), *(["true entropy"] if truth else [])]
    rows = {entry["id"]: _cells(entry, metrics, truth) for entry in evals}
    widths = [max(map(len, column)) for column in zip(headings, *rows.values(), strict=True)]
    room = out.width - sum(widths) - PADDING * (1 + len(widths))
    if room < _NAME_WIDTH:
        return Group(Text("evaluations", style="bold"), *(_list(name, headings, row) for name, row in rows.items()))
    table = plain_table(title="evaluations")
    # It is typed after --eval; where there is no room for both the results matter more.
    table.add_column("evaluation", overflow="fold", no_wrap=room >= max(map(len, rows)))
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    for name, (state, *cells) in rows.items():
        table.add_row(Text(name), state_text(state), *map(Text, cells))
    return table


def _cells(entry: Mapping[str, Any], metrics: Sequence[Metric], truth: bool) -> list[str]:
    results = [result_of(entry, metric) for metric in metrics]
    shards = f"{entry['shards_done']}/{entry['shards']}"
    entropy = [signed(entry["true_entropy"])] if truth else []
    return [entry["state"], shards, count(entry["checkpoint_step"]), *results, *entropy]


def _list(name: str, headings: Sequence[str], cells: Sequence[str]) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    for heading, cell in zip(headings, cells, strict=True):
        facts.add_row(Text(f"  {heading}", style="dim"), state_text(cell))
    return Group(Text(name, overflow="fold"), facts)
