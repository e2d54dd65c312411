"""Groups of runs: a line each among the runs, and a table of one group's runs by what each has of its own."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from cldctl.runs.status import RunStatus

from .console import out
from .details import details
from .format import count, number
from .tables import fitted, newest_that_fit, overview, plain_table, present_in, progress_bar, result_of, state_text

# Columns of the table of a group that are left out if there is no room for them, the first of them first.
_LEFT_OUT = ("run", "saved", "", "loss")
# States as they are counted, the usual ones first.
_ORDER = ("FINISHED", "RUNNING", "REQUEUED", "PENDING", "STOPPED", "FAILED", "CANCELLED", "LOST")
# Lines that runs get beside groups, however many groups there are.
_LEAST = 5


def overview_with_groups(rows: Sequence[RunStatus], height: int | None = None) -> RenderableType:
    """Runs, a line each, and below them groups of several runs, a line each.

    Args:
        height: lines that there are; of the runs, the last that fit are shown.
    """
    sizes = Counter(row.group for row in rows if row.group is not None)
    alone = [row for row in rows if row.group is None or sizes[row.group] < 2]
    names = [name for name, size in sizes.items() if size > 1]
    groups = [_groups({name: [row for row in rows if row.group == name] for name in names})] if names else []
    if groups and not alone:
        return groups[0]
    if height is None:
        return Lines(overview(alone), *groups)
    taken = sum(len(out.render_lines(group)) for group in groups)
    return Lines(newest_that_fit(alone, max(height - taken, _LEAST)), *groups)


def _groups(members: Mapping[str, Sequence[RunStatus]]) -> RenderableType:
    table = plain_table()
    table.add_column("group", overflow="fold")
    table.add_column("runs", justify="right")
    table.add_column("states", overflow="fold")
    table.add_column("done", justify="right")
    for name, rows in members.items():
        table.add_row(Text(name), str(len(rows)), Text(states(rows)), f"{_share(rows):.0%}")
    return table


def states(rows: Iterable[RunStatus]) -> str:
    """How many runs are in which state: "4 FINISHED, 1 RUNNING"."""
    numbers = Counter(row.state for row in rows)
    names = sorted(numbers, key=lambda state: _ORDER.index(state) if state in _ORDER else len(_ORDER))
    return ", ".join(f"{numbers[name]} {name}" for name in names)


def details_with_groups(rows: Sequence[RunStatus], groups: Sequence[str]) -> RenderableType:
    """These groups as tables, and everything about each of the other runs."""
    tables = [group_details(name, [row for row in rows if row.group == name]) for name in groups]
    others = [row for row in rows if row.group not in groups]
    return Lines(*tables, *([details(others)] if others else []))


def group_details(name: str, rows: Sequence[RunStatus]) -> RenderableType:
    """The runs of a group by what each has of its own: state, step, loss and newest results."""
    heads = _heads(rows)
    quantities = present_in([entry for row in rows for entry in row.evals])
    columns: dict[str, list[RenderableType]] = {
        "run": [row.name for row in rows],
        **{head: [row.sweep.get(key, "-") for row in rows] for key, head in heads.items()},
        "state": [state_text(row.state) for row in rows],
        "step": [f"{count(row.step)}/{count(row.steps)}" for row in rows],
        **({"": [progress_bar(row) for row in rows]} if out.is_terminal else {}),
        "loss": [number(row.loss) for row in rows],
        "saved": [count(row.checkpoint_step) for row in rows],
        **{it.label: [_newest(row.evals, it) for row in rows] for it in quantities},
    }
    right = ("step", "loss", "saved", *heads.values(), *(quantity.label for quantity in quantities))
    title = Text.assemble("group ", (name, "bold"), f"  {states(rows)}")
    reasons = [Text(f"{row.name}: {row.reason}", style="yellow") for row in rows if row.reason]
    return Lines(title, fitted(columns, _LEFT_OUT, right), *reasons)


def _heads(rows: Sequence[RunStatus]) -> dict[str, str]:
    """The axes of a group with their headings: the last part of a key, or the key if others end alike."""
    keys = list(dict.fromkeys(key for row in rows for key in row.sweep))
    shorts = [key.rpartition(".")[2] for key in keys]
    taken = ("run", "state", "step", "loss", "saved")
    return {
        key: short if shorts.count(short) == 1 and short not in taken else key
        for key, short in zip(keys, shorts, strict=True)
    }


def _newest(evals: Sequence[Mapping[str, Any]], quantity: Any) -> str:
    known = [entry for entry in evals if quantity.key in entry["results"]]
    return result_of(known[-1], quantity) if known else "-"


def _share(rows: Sequence[RunStatus]) -> float:
    steps = sum(row.steps or 0 for row in rows)
    return sum(min(row.step, row.steps or 0) for row in rows) / steps if steps else 0.0
