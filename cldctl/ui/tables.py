"""Tables of runs. They fit 80 columns by leaving out what matters least, and are plain text when piped."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cld_core.evaluation import registry
from cld_core.evaluation.definitions import Quantity
from cldctl.runs.status import RunStatus

from .console import out
from .format import age, count, duration, number
from .lines import Lines

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
# Columns of the overview that are left out if there is no room for them, the first of them first.
_LEFT_OUT = ("tags", "", "job", "last end", "attempts", "saved", "steps/s", "ETA", "loss", "eval")
_RIGHT = ("step", "loss", "steps/s", "ETA", "saved", "attempts")
_BAR = 12
# More rows than this are drawn as lines: rich takes a millisecond for each.
_MANY = 200
# Blanks between two columns of a table.
PADDING = 3
ATTEMPT_HEADINGS = ("attempt", "job", "from", "to", "ran", "ended by")


def overview(rows: Sequence[RunStatus]) -> RenderableType:
    """All runs, a line each; with the age of a state whose cluster could not be asked."""
    is_old = any(row.as_of is not None for row in rows)
    bars = out.is_terminal and len(rows) <= _MANY
    columns: dict[str, list[RenderableType]] = {
        "run": [row.name for row in rows],
        "state": [state_text(row.state) for row in rows],
        **({"as of": [age(row.as_of) for row in rows]} if is_old else {}),
        "step": [f"{_short(row.step)}/{_short(row.steps)}" for row in rows],
        **({"": [progress_bar(row) for row in rows]} if bars else {}),
        "loss": [number(row.loss) for row in rows],
        "steps/s": [number(row.steps_per_s, 3) for row in rows],
        "ETA": [duration(row.eta_s) for row in rows],
        "saved": [_short(row.checkpoint_step) for row in rows],
        "attempts": [str(len(row.attempts)) for row in rows],
        "last end": [row.attempts[-1]["cause"] or "-" if row.attempts else "-" for row in rows],
        "job": [f"{row.cluster} {row.job_id}" if row.job_id else "-" for row in rows],
        "eval": [_evaluation(row.evals) for row in rows],
        **({"tags": [" ".join(row.tags) for row in rows]} if any(row.tags for row in rows) else {}),
    }
    return fitted(columns, _LEFT_OUT, _RIGHT)


def fitted(
    columns: Mapping[str, Sequence[RenderableType]], left_out: Sequence[str], right: Sequence[str]
) -> RenderableType:
    """A table without those columns of ``left_out``, in this order, for which there is no room: names stay whole.

    Args:
        columns: the cells (texts or bars) of each heading.
        right: headings of the columns of numbers.
    """
    widths = {heading: max([len(heading), *map(_width, cells)]) for heading, cells in columns.items()}
    for heading in left_out:
        if sum(widths.values()) + PADDING * len(widths) > out.width:
            widths.pop(heading, None)
    if any(len(columns[heading]) > _MANY for heading in widths):
        return Lines(columns, widths, right)
    table = plain_table()
    for heading in widths:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for cells in zip(*(columns[heading] for heading in widths), strict=True):
        # Text: plain strings are searched for markup, which is slow for a thousand rows.
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return table


def _width(cell: RenderableType) -> int:
    return len(cell) if isinstance(cell, str | Text) else _BAR


def newest_that_fit(rows: Sequence[RunStatus], height: int) -> RenderableType:
    """The overview of as many of the last rows as there are lines for, and how many are left out."""
    count_shown = min(len(rows), height)
    while True:
        left_out = len(rows) - count_shown
        note = (
            [Text(f"{left_out:,} more: --all, or filter with --state, --since, --tag", style="dim")] if left_out else []
        )
        view = Group(overview(rows[left_out:]), *note)
        # A row may take several lines. One line stays free for the cursor.
        if count_shown <= 1 or len(out.render_lines(view)) < height:
            return view
        count_shown -= 1


def present_in(evals: Sequence[Mapping[str, Any]]) -> list[Quantity]:
    """The numbers that any of these evaluations has, in the order of the table of metrics."""
    return [
        quantity for _, quantity in registry.quantities() if any(quantity.key in entry["results"] for entry in evals)
    ]


def result_of(entry: Mapping[str, Any], quantity: Quantity) -> str:
    """A result of an evaluation's row of ``status``; a dash if it has none."""
    result = entry["results"].get(quantity.key)
    return result_text(quantity, result["value"], result["stderr"]) if result else "-"


def result_text(quantity: Quantity, value: float, stderr: float | None) -> str:
    """A result and its standard error, with the decimals of its kind."""
    error = "" if stderr is None else f" ± {stderr:.{quantity.digits}f}"
    return f"{value:.{quantity.digits}f}{error}"


def attempt_cells(attempts: Sequence[Mapping[str, Any]], reason: str | None = None) -> list[list[str]]:
    """The rows of the table of attempts, under `ATTEMPT_HEADINGS`.

    Args:
        reason: is shown elsewhere, so that an attempt's detail is left out if it is the same.
    """
    rows = []
    for entry in attempts:
        cause = entry["cause"] or "-"
        detail = "" if entry["detail"] in (None, "", reason) else f": {entry['detail']}"
        steps = (count(entry["first_step"]), count(entry["last_step"]))
        rows.append([str(entry["attempt"]), str(entry["job_id"]), *steps, duration(entry.get("ran_s")), cause + detail])
    return rows


def state_text(state: str) -> Text:
    """The word for a state, in its colour."""
    return Text(state, style=STATE_STYLE.get(state, ""))


def plain_table(title: str | None = None) -> Table:
    """A table without a frame, which pipes well."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")


def progress_bar(row: RunStatus) -> ProgressBar:
    """How much of the training is done."""
    return ProgressBar(total=row.steps or 1, completed=row.step, width=_BAR)


def _short(value: int | None) -> str:
    """For example 950, 12k, 12.5k, 1.2M."""
    if value is None:
        return "-"
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return str(value)


def _evaluation(evals: Sequence[dict[str, Any]]) -> str:
    """The newest result, or how many shards of it are done and why the others are not being computed."""
    if not evals:
        return "-"
    known = [entry for entry in evals if any(entry[name] is not None for name in ("nll", "bpd", "fid"))]
    # An evaluation that is stopped, or has other numbers, does not hide those of an earlier one.
    last = evals[-1] if evals[-1]["state"] == "RUNNING" or not known else known[-1]
    results = [f"nll {last['nll']:.3f}"] if last["nll"] is not None else []
    results += [f"bpd {last['bpd']:.3f}"] if last["bpd"] is not None else []
    results += [f"FID {last['fid']:.2f}"] if last["fid"] is not None else []
    what = "shards" if last["state"] == "RUNNING" else last.get("cause")
    return " ".join(results) or (f"{last['shards_done']}/{last['shards']} {what}" if what else "-")
