"""Everything about a run: facts, attempts, evaluations, sweeps, tunings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cld_core.evaluation.definitions import Quantity
from cld_core.evaluation.sweeps import Sweep
from cld_core.run import RunFolder
from cldctl.evals.table import rows as sweep_rows
from cldctl.runs.phases import WAITING
from cldctl.runs.status import RunStatus

from .console import out
from .fitting import PADDING, fitted, plain_table
from .format import age, count, duration, fixed, number
from .sweeps import by_step, sweep_table
from .tables import (
    ATTEMPT_HEADINGS,
    TUNING_HEADINGS,
    attempt_cells,
    counts_of,
    present_in,
    progress_bar,
    result_of,
    state_text,
    tuning_cells,
)
from .usage import usage_line
from .wrap import Wrapped

# Of a run that keeps no copy of its code.
LIVE_CODE = "the live checkout (--live-code)"
# At least so much of an evaluation's name must fit into one line of a table.
_NAME_WIDTH = 16


def details(rows: Sequence[RunStatus]) -> RenderableType:
    """Everything about each of a few runs."""
    return Group(*map(_details, rows))


def _details(row: RunStatus) -> RenderableType:
    parts: list[RenderableType] = [_facts(row)]
    if row.attempts:
        parts += [Text(), _attempts(row)]
    swept = {name for entry in row.sweeps for name in entry["evaluations"]}
    alone = [entry for entry in row.evals if entry["id"] not in swept]
    if alone:
        parts += [Text(), evaluations(alone), *remarks(alone)]
    for table in by_step(alone):
        parts += [Text(), table]
    parts += _sweeps(row)
    if row.tunings:
        parts += [Text(), tunings(row.tunings), *_reasons(row.tunings)]
    return Group(*parts, Text())


def _facts(row: RunStatus) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()

    def fact(name: str, value: RenderableType) -> None:
        facts.add_row(name, Wrapped(value) if isinstance(value, str | Text) else value)

    fact("run", Text(row.name, style="bold"))
    when = f" as of {age(row.as_of)}" if row.as_of is not None else ""
    # The reason of a run that waits says that it waits.
    phase = None if row.phase == WAITING and row.reason else row.phase
    doing = [f"  {text}" for text in (phase, row.reason) if text]
    fact("state", Text.assemble(state_text(row.state), when, *doing))
    share = f"  ({100 * row.step / row.steps:.1f}%)" if row.steps else ""
    fact("step", f"{count(row.step)} of {count(row.steps)}{share}")
    if out.is_terminal:
        fact("", progress_bar(row))
    if row.smoothed_loss is None:
        fact("last loss", number(row.loss, 5))
    else:
        fact("loss", f"{number(row.smoothed_loss, 5)} (smoothed), last {number(row.loss, 5)}")
    if row.steps_per_s is not None:
        fact("rate", f"{number(row.steps_per_s, 3)} steps/s, ETA {duration(row.eta_s)}")
    fact("checkpoint", "none" if row.checkpoint_step is None else f"step {count(row.checkpoint_step)}")
    fact("updated", age(row.updated))
    if row.usage is not None:
        fact("usage", usage_line(row.usage))
    if row.tags:
        fact("tags", " ".join(row.tags))
    if row.note is not None:
        fact("note", row.note)
    if row.job_id is not None:
        fact("job", f"{row.cluster} {row.job_id}" + (f" on {row.host}" if row.host else ""))
    if row.code == "live":
        fact("code", LIVE_CODE)
    fact("folder", row.path)
    for change in row.changes:
        fact("changed", Text(change, style="yellow"))
    for problem in row.problems:
        fact("problem", Text(problem, style="yellow"))
    return facts


def _attempts(row: RunStatus) -> RenderableType:
    cells = zip(*attempt_cells(row.attempts, row.reason), strict=True)
    columns: dict[str, Sequence[RenderableType]] = dict(zip(ATTEMPT_HEADINGS, cells, strict=True))
    numbers = [heading for heading in ATTEMPT_HEADINGS if heading != "ended by"]
    return fitted(columns, ("from", "ran", "job"), numbers, wraps="ended by", title="attempts")


def _sweeps(row: RunStatus) -> Iterator[RenderableType]:
    evals = {entry["id"]: entry for entry in row.evals}
    run = RunFolder(row.path)
    for entry in row.sweeps:
        sweep = Sweep.load(run.evals / entry["id"])
        if sweep is not None:
            title = f"{entry['id']}: {entry['done']} of {len(entry['evaluations'])} evaluations complete"
            yield from (Text(), Text(title, style="bold"), sweep_table(sweep, sweep_rows(run, sweep), evals))
            yield from remarks([evals[name] for name in sweep.evaluations if name in evals])


def evaluations(evals: Sequence[dict[str, Any]]) -> RenderableType:
    """Evaluations of a run, with those results that any of them has: a table, or lists if numbers would be cut."""
    quantities = present_in(evals)
    truth = any(entry["true_entropy"] is not None for entry in evals)
    labels = [*(quantity.label for quantity in quantities), *(["true entropy"] if truth else [])]
    headings = ["state", "shards", "step", "of", *labels]
    # The name is typed after --eval; if there is no room for both, the results matter more.
    return _named("evaluation", headings, {entry["id"]: _cells(entry, quantities, truth) for entry in evals})


def tunings(entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Tunings of a run: how far they are, and how near to the network's flow what they found comes."""
    return _named("tuning", TUNING_HEADINGS, {entry["id"]: tuning_cells(entry) for entry in entries})


def _named(what: str, headings: Sequence[str], rows: Mapping[str, Sequence[str]]) -> RenderableType:
    """Rows by name, the state first: a table, or lists if numbers would be cut."""
    widths = [max(map(len, column)) for column in zip(headings, *rows.values(), strict=True)]
    room = out.width - sum(widths) - PADDING * (1 + len(widths))
    if room < _NAME_WIDTH:
        return Group(Text(f"{what}s", style="bold"), *(_list(name, headings, row) for name, row in rows.items()))
    table = plain_table(title=f"{what}s")
    table.add_column(what, no_wrap=room >= max(map(len, rows)))
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("state", "kept") else "right", no_wrap=True)
    for name, (state, *cells) in rows.items():
        table.add_row(Wrapped(name), state_text(state), *map(Text, cells))
    return table


def remarks(evals: Sequence[Mapping[str, Any]]) -> list[Wrapped]:
    """What is unusual about the results of evaluations, a line each."""
    texts = [f"{entry['id']}: {text}" for entry in evals for text in entry["remarks"]]
    return [Wrapped(text, "yellow") for text in texts]


def _reasons(entries: Sequence[Mapping[str, Any]]) -> list[Wrapped]:
    """Why tunings have stopped, a line each."""
    return [Wrapped(f"{entry['id']}: {entry['reason']}", "yellow") for entry in entries if entry["reason"]]


def _cells(entry: Mapping[str, Any], quantities: Sequence[Quantity], truth: bool) -> list[str]:
    results = [result_of(entry, quantity) for quantity in quantities]
    shards = f"{entry['shards_done']}/{entry['shards']}"
    entropy = [fixed(entry["true_entropy"])] if truth else []
    of = ", ".join(counts_of(entry)) or "-"
    return [entry["state"], shards, count(entry["checkpoint_step"]), of, *results, *entropy]


def _list(name: str, headings: Sequence[str], cells: Sequence[str]) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    for heading, cell in zip(headings, cells, strict=True):
        facts.add_row(Text(f"  {heading}", style="dim"), state_text(cell))
    return Group(Wrapped(name), facts)
