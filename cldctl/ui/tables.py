"""Tables of runs. They fit 80 columns by leaving out what matters least, and are plain text when piped."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cldctl.cluster.state import RunStatus

from .console import out
from .format import age, count, duration, number, signed

STATE_STYLE = {
    "PENDING": "yellow",
    "RUNNING": "bold green",
    "REQUEUED": "yellow",
    "STOPPED": "magenta",
    "FAILED": "bold red",
    "CANCELLED": "dim",
    "FINISHED": "green",
    "LOST": "bold red",
}
# From this width on a table has all its columns.
_WIDE = 110


def overview(rows: Sequence[RunStatus], *, old: bool = False) -> RenderableType:
    """All runs, a line each; ``old``: with the age of what is said, since the cluster could not be asked."""
    wide = out.width >= _WIDE
    table = _table()
    table.add_column("run", overflow="fold", ratio=3 if wide else None)
    table.add_column("state", no_wrap=True)
    if old:
        table.add_column("as of", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    if wide and out.is_terminal:
        table.add_column("", width=12)
    table.add_column("loss", justify="right", no_wrap=True)
    table.add_column("steps/s", justify="right", no_wrap=True)
    table.add_column("ETA", justify="right", no_wrap=True)
    if wide:
        table.add_column("saved", justify="right", no_wrap=True)
        table.add_column("tries", justify="right", no_wrap=True)
        table.add_column("last end", no_wrap=True)
        table.add_column("job", overflow="fold")
    table.add_column("eval", overflow="fold")
    for row in rows:
        bar = [_bar(row)] if wide and out.is_terminal else []
        cells: list[RenderableType] = [
            row.name,
            state_text(row.state),
            *([age(row.updated or row.created)] if old else []),
            f"{_short(row.step)}/{_short(row.steps)}",
            *bar,
            number(row.loss),
            number(row.steps_per_s, 3),
            duration(row.eta_s),
        ]
        if wide:
            cause = row.attempts[-1]["cause"] if row.attempts else None
            job = f"{row.cluster} {row.job_id}" if row.job_id else "-"
            cells += [_short(row.checkpoint_step), str(len(row.attempts)), cause or "-", job]
        cells.append(_evaluation(row.evals))
        # Text, since plain strings are searched for markup, which takes long for a thousand rows.
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return table


def details(rows: Sequence[RunStatus], *, old: bool = False) -> RenderableType:
    """Everything about each of a few runs; ``old``: as in `overview`."""
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
        fact("", _bar(row))
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
        parts += [Text(), _attempts(row.attempts)]
    if row.evals:
        parts += [Text(), evaluations(row.evals)]
    return Group(*parts, Text())


def _attempts(attempts: Sequence[dict[str, Any]]) -> Table:
    table = _table(title="attempts")
    for heading in ("attempt", "job", "from", "to", "lasted", "ended by"):
        table.add_column(heading, justify="left" if heading in ("job", "ended by") else "right", overflow="fold")
    for entry in attempts:
        lasted = entry["ended"] - entry["started"] if entry["ended"] is not None else None
        why = (entry["cause"] or "-") + (f": {entry['detail']}" if entry["detail"] else "")
        first, last = count(entry["first_step"]), count(entry["last_step"])
        cells = (str(entry["attempt"]), str(entry["job_id"]), first, last, duration(lasted), why)
        table.add_row(*map(Text, cells))
    return table


def evaluations(evals: Sequence[dict[str, Any]]) -> Table:
    """Evaluations of a run, with their results."""
    table = _table(title="evaluations")
    table.add_column("evaluation", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("shards", "step", "NLL bound, nats", "true entropy", "bits/dim", "FID"):
        table.add_column(heading, justify="right", overflow="fold")
    for entry in evals:
        table.add_row(
            Text(entry["id"]),
            state_text(entry["state"]),
            f"{entry['shards_done']}/{entry['shards']}",
            count(entry["checkpoint_step"]),
            with_error(entry["nll"], entry["stderr"]),
            signed(entry["true_entropy"]),
            with_error(entry["bpd"], entry["stderr"]),
            signed(entry["fid"]),
        )
    return table


def with_error(value: float | None, stderr: float | None) -> str:
    """A mean and its standard error."""
    return "-" if value is None else f"{value:.3f}" + ("" if stderr is None else f" ± {stderr:.3f}")


def state_text(state: str) -> Text:
    """The word for a state, in its colour."""
    return Text(state, style=STATE_STYLE.get(state, ""))


def _table(title: str | None = None) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")


def _bar(row: RunStatus) -> ProgressBar:
    return ProgressBar(total=row.steps or 1, completed=row.step, width=12)


def _short(value: int | None) -> str:
    """For example 950, 12k, 12.5k, 1.2M."""
    if value is None:
        return "-"
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return str(value)


def _evaluation(evals: Sequence[dict[str, Any]]) -> str:
    """The newest result, or how far it is."""
    if not evals:
        return "-"
    last = evals[-1]
    found = [f"nll {last['nll']:.3f}"] if last["nll"] is not None else []
    found += [f"bpd {last['bpd']:.3f}"] if last["bpd"] is not None else []
    found += [f"FID {last['fid']:.2f}"] if last["fid"] is not None else []
    return " ".join(found) or (f"{last['shards_done']}/{last['shards']} shards" if last["state"] == "RUNNING" else "-")
