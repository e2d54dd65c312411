"""Runs as a table, a line each, and the parts that other tables of them share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from cld_core.evaluation import registry
from cld_core.evaluation.definitions import Quantity
from cldctl.runs.status import RunStatus

from .console import out
from .fitting import BAR, MANY, fitted
from .format import age, count, duration, number, short

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
# Columns of the overview that are left out if there is no room for them, the first of them first; of runs that train,
# when they will be done is left out last.
_LEFT_OUT = ("tags", "", "job", "last end", "attempts", "saved")
_EVAL = "eval"
_LEFT_OUT_LIVE = (*_LEFT_OUT, _EVAL, "steps/s", "loss", "ETA")
_LEFT_OUT_OVER = (*_LEFT_OUT, "steps/s", "ETA", "loss", _EVAL)
_RIGHT = ("step", "loss", "steps/s", "ETA", "saved", "attempts")
# The results that the overview has room for, with their labels and decimals.
_SHOWN = {"nll": ("NLL bound", 3), "bpd": ("bits/dim", 3), "fid": ("FID", 2)}
ATTEMPT_HEADINGS = ("attempt", "job", "from", "to", "ran", "ended by")
TUNING_HEADINGS = ("state", "NFE", "step", "rows", "kept", "untuned rms", "rms", "gain")


def overview(rows: Sequence[RunStatus], *, compact: bool = False) -> RenderableType:
    """All runs, a line each; with the age of a state whose cluster could not be asked."""
    is_old = any(row.as_of is not None for row in rows)
    results = _heading(rows)
    bars = out.is_terminal and len(rows) <= MANY
    columns: dict[str, list[RenderableType]] = {
        "run": [row.name for row in rows],
        "state": [state_text(row.state) for row in rows],
        **({"as of": [age(row.as_of) for row in rows]} if is_old else {}),
        "step": [f"{short(row.step)}/{short(row.steps)}" for row in rows],
        **({"": [progress_bar(row) for row in rows]} if bars else {}),
        "loss": [number(row.shown_loss) for row in rows],
        "steps/s": [number(row.steps_per_s, 3) for row in rows],
        "ETA": [duration(row.eta_s) for row in rows],
        "saved": [short(row.checkpoint_step) for row in rows],
        "attempts": [str(len(row.attempts)) for row in rows],
        "last end": [row.attempts[-1]["cause"] or "-" if row.attempts else "-" for row in rows],
        "job": [f"{row.cluster} {row.job_id}" if row.job_id else "-" for row in rows],
        results: [_evaluation(row.evals, is_labelled=results == _EVAL) for row in rows],
        **({"tags": [" ".join(row.tags) for row in rows]} if any(row.tags for row in rows) else {}),
    }
    order = _LEFT_OUT_LIVE if any(row.state == "RUNNING" for row in rows) else _LEFT_OUT_OVER
    left_out = [results if heading == _EVAL else heading for heading in order]
    return fitted(columns, left_out, _RIGHT, names="run", compact=compact)


def present_in(evals: Sequence[Mapping[str, Any]]) -> list[Quantity]:
    """The numbers that any of these evaluations has, in the order of the table of metrics."""
    return [
        quantity for _, quantity in registry.quantities() if any(quantity.key in entry["results"] for entry in evals)
    ]


def result_of(entry: Mapping[str, Any], quantity: Quantity, *, with_count: bool = False) -> str:
    """A result of an evaluation's row of ``status``; a dash if it has none.

    Args:
        with_count: add of how many samples or test points it is.
    """
    result = entry["results"].get(quantity.key)
    if not result:
        return "-"
    text, of = result_text(quantity, result["value"], result["stderr"]), counts_of(entry, [quantity])
    return f"{text} ({', '.join(of)})" if with_count and of else text


def counts_of(
    entry: Mapping[str, Any], quantities: Iterable[Quantity] | None = None, show: Callable[[int], str] = count
) -> list[str]:
    """Of how many samples and test points the results of an evaluation are: ["50,000 samples", "2,000 points"].

    Args:
        quantities: of which results; None for all.
    """
    keys = None if quantities is None else {quantity.key for quantity in quantities}
    words = (
        f"{show(result['n'])} {registry.ROWS[metric.rows].over}"
        for metric, quantity in registry.quantities()
        if (result := entry["results"].get(quantity.key)) and result.get("n") is not None
        if keys is None or quantity.key in keys
    )
    return list(dict.fromkeys(words))


def result_text(quantity: Quantity, value: float, stderr: float | None) -> str:
    """A result and its standard error, with the decimals of its kind."""
    error = "" if stderr is None else f" ± {stderr:.{quantity.digits}f}"
    return f"{value:.{quantity.digits}f}{error}"


def cell_text(quantity: Quantity, row: Mapping[str, Any]) -> str:
    """`result_text` of a row of a sweep (`evals.table.rows`) that has the result, with the share of lost samples."""
    text = result_text(quantity, row[quantity.key], row[f"{quantity.key}_stderr"])
    share = row.get(f"{quantity.key}_nonfinite")
    return f"{text} ({100 * share:.2g}% lost)" if share else text


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


def tuning_cells(entry: Mapping[str, Any]) -> list[str]:
    """The row of a tuning under `TUNING_HEADINGS`: rms distances from the network's flow, and what was gained."""
    kept, rms = entry["kept"], entry["rms"]
    distances = [number(rms.get("untuned"), 3), number(rms.get(kept), 3)]
    gain = "-" if entry["gain"] is None else f"{entry['gain']:.1f}x"
    rows = f"{count(entry['rows_done'])}/{count(entry['rows'])}"
    return [entry["state"], str(entry["nfe"]), count(entry["checkpoint_step"]), rows, kept or "-", *distances, gain]


def state_text(state: str) -> Text:
    """The word for a state, in its colour."""
    return Text(state, style=STATE_STYLE.get(state, ""))


def progress_bar(row: RunStatus) -> ProgressBar:
    """How much of the training is done."""
    return ProgressBar(total=row.steps or 1, completed=row.step, width=BAR)


def _heading(rows: Sequence[RunStatus]) -> str:
    """The heading over the newest results: what they are if all are of one kind, so that the cells need not say it."""
    present = {name for row in rows for entry in row.evals for name in _SHOWN if entry[name] is not None}
    return _SHOWN[present.pop()][0] if len(present) == 1 else _EVAL


def _evaluation(evals: Sequence[dict[str, Any]], *, is_labelled: bool = True) -> str:
    """The newest result, or how many shards of it are done and why the others are not being computed."""
    if not evals:
        return "-"
    known = [entry for entry in evals if any(entry[name] is not None for name in _SHOWN)]
    # An evaluation that is stopped, or has other numbers, does not hide those of an earlier one.
    last = evals[-1] if evals[-1]["state"] == "RUNNING" or not known else known[-1]
    values = {label: f"{last[name]:.{digits}f}" for name, (label, digits) in _SHOWN.items() if last[name] is not None}
    if values:
        results = [f"{label} {value}" if is_labelled else value for label, value in values.items()]
        of = counts_of(last, show=short)
        return ", ".join(results) + (f" ({', '.join(of)})" if of else "")
    what = "shards" if last["state"] == "RUNNING" else last.get("cause")
    return f"{last['shards_done']}/{last['shards']} {what}" if what else "-"
