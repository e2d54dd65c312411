"""Everything about a run: facts, attempts, evaluations, sweeps."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cld_core.evaluation.results import METRICS
from cld_core.run import RunFolder
from cldctl.cluster.state import RunStatus
from cldctl.evals import sweep as sweeps

from .console import out
from .format import age, count, duration, number, signed
from .sweeps import by_step, sweep_table
from .tables import plain_table, progress_bar, result_of, state_text


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
        fact("job", f"{row.cluster} {row.job_id} on {row.host or '-'}")
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


def evaluations(evals: Sequence[dict[str, Any]]) -> Table:
    """Evaluations of a run, with those results that any of them has."""
    metrics = [metric for metric in METRICS if any(metric.key in entry["results"] for entry in evals)]
    table = plain_table(title="evaluations")
    # It is typed after --eval; where there is no room for both the results matter more.
    table.add_column("evaluation", overflow="fold", no_wrap=out.width >= 64 + 16 * len(metrics))
    table.add_column("state", no_wrap=True)
    for heading in ("shards", "step", *(metric.label for metric in metrics)):
        table.add_column(heading, justify="right", overflow="fold")
    truth = any(entry["true_entropy"] is not None for entry in evals)
    if truth:
        table.add_column("true entropy", justify="right", overflow="fold")
    for entry in evals:
        results = [result_of(entry, metric) for metric in metrics]
        table.add_row(
            Text(entry["id"]),
            state_text(entry["state"]),
            f"{entry['shards_done']}/{entry['shards']}",
            count(entry["checkpoint_step"]),
            *results,
            *([signed(entry["true_entropy"])] if truth else []),
        )
    return table
