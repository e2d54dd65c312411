"""Groups of runs: a line each among the runs, and a table of one group's runs by what each has of its own."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from cldctl.runs.state import ALIVE
from cldctl.runs.status import RunStatus

from .console import out
from .details import details
from .fitting import fitted
from .format import count, duration, number
from .screens import by_importance, fitting, in_place, left_out, most_that_fit
from .tables import overview, present_in, progress_bar, result_of, state_text
from .wrap import Wrapped

# Columns of the table of a group that are left out if there is no room for them, the first of them first.
_LEFT_OUT = ("", "saved", "loss", "ETA", "step")
# States as they are counted, the usual ones first.
_ORDER = ("FINISHED", "RUNNING", "REQUEUED", "PENDING", "STOPPED", "FAILED", "CANCELLED", "LOST")


def overview_with_groups(rows: Sequence[RunStatus], height: int | None = None) -> RenderableType:
    """Runs, a line each, and below them groups of several runs, a line each.

    Args:
        height: lines that there are; what is alive comes first, and what does not fit is counted.
    """
    sizes = Counter(row.group for row in rows if row.group is not None)
    alone = [row for row in rows if row.group is None or sizes[row.group] < 2]
    members = {name: [row for row in rows if row.group == name] for name, size in sizes.items() if size > 1}
    if height is None or not members:
        parts = [*([overview(alone)] if alone or not members else []), *([_groups(members)] if members else [])]
        return Lines(*parts) if height is None else most_that_fit(alone, height)
    items: list[RunStatus | str] = [*by_importance(alone), *members]
    ranked = sorted(items, key=lambda it: _is_idle(it, members))

    def view(shown: int) -> RenderableType:
        runs = in_place([it for it in ranked[:shown] if isinstance(it, RunStatus)], alone)
        groups = {it: members[it] for it in members if it in ranked[:shown]}
        compact = shown < len(ranked)
        parts = [overview(runs, compact=compact)] if runs else []
        return Lines(*parts, *([_groups(groups, compact=compact)] if groups else []))

    def note(shown: int) -> Text:
        hidden = ranked[shown:]
        runs = [it for it in hidden if isinstance(it, RunStatus)]
        return left_out(runs, len(hidden) - len(runs))

    return fitting(len(ranked), height, view, note)


def _is_idle(item: RunStatus | str, members: Mapping[str, Sequence[RunStatus]]) -> bool:
    rows = members[item] if isinstance(item, str) else [item]
    return not any(row.state in ALIVE for row in rows)


def _groups(members: Mapping[str, Sequence[RunStatus]], *, compact: bool = False) -> RenderableType:
    columns: dict[str, list[RenderableType]] = {
        "group": list(members),
        "runs": [str(len(rows)) for rows in members.values()],
        "states": [states(rows) for rows in members.values()],
        "done": [f"{_share(rows):.0%}" for rows in members.values()],
    }
    return fitted(columns, (), ("runs", "done"), names="group", wraps="states", compact=compact)


def states(rows: Iterable[RunStatus]) -> str:
    """How many runs are in which state: "4 FINISHED, 1 RUNNING"."""
    numbers = Counter(row.state for row in rows)
    names = sorted(numbers, key=lambda state: _ORDER.index(state) if state in _ORDER else len(_ORDER))
    return ", ".join(f"{numbers[name]} {name}" for name in names)


def details_with_groups(rows: Sequence[RunStatus], groups: Sequence[str], height: int | None = None) -> RenderableType:
    """These groups as tables, and everything about each of the other runs.

    Args:
        height: lines that there are; if several runs do not fit, they are shown as an overview does.
    """
    others = [row for row in rows if row.group not in groups]
    tables = [group_details(name, [row for row in rows if row.group == name]) for name in groups]
    whole = Lines(*tables, *([details(others)] if others else []))
    if height is None or len(rows) < 2 or len(out.render_lines(whole)) < height:
        return whole
    if len(groups) == 1 and not others:
        ranked = by_importance(rows)
        return fitting(
            len(rows),
            height,
            lambda shown: group_details(groups[0], in_place(ranked[:shown], rows), of=rows, compact=True),
            lambda shown: left_out(ranked[shown:]),
        )
    return most_that_fit(rows, height)


def group_details(
    name: str, rows: Sequence[RunStatus], *, of: Sequence[RunStatus] | None = None, compact: bool = False
) -> RenderableType:
    """The runs of a group by what each has of its own: state, step, loss and newest results.

    Args:
        of: all runs of the group, if only some of them are shown.
        compact: without empty lines and the reasons of states.
    """
    heads = _heads(of or rows)
    quantities = present_in([entry for row in rows for entry in row.evals])
    columns: dict[str, list[RenderableType]] = {
        "run": [row.name for row in rows],
        **{head: [row.sweep.get(key, "-") for row in rows] for key, head in heads.items()},
        "state": [state_text(row.state) for row in rows],
        "step": [f"{count(row.step)}/{count(row.steps)}" for row in rows],
        **({"": [progress_bar(row) for row in rows]} if out.is_terminal else {}),
        "loss": [number(row.shown_loss) for row in rows],
        "ETA": [duration(row.eta_s) for row in rows],
        "saved": [count(row.checkpoint_step) for row in rows],
        **{it.label: [_newest(row.evals, it) for row in rows] for it in quantities},
    }
    right = ("step", "loss", "ETA", "saved", *heads.values(), *(quantity.label for quantity in quantities))
    title = Text.assemble("group ", (name, "bold"), f"  {states(of or rows)}", no_wrap=True, overflow="ellipsis")
    reasons = [] if compact else [Wrapped(f"{row.name}: {row.reason}", "yellow") for row in rows if row.reason]
    return Lines(title, fitted(columns, _LEFT_OUT, right, names="run", compact=compact), *reasons)


def _heads(rows: Sequence[RunStatus]) -> dict[str, str]:
    """The axes of a group with their headings: the last part of a key, or the key if others end alike."""
    keys = list(dict.fromkeys(key for row in rows for key in row.sweep))
    shorts = [key.rpartition(".")[2] for key in keys]
    taken = ("run", "state", "step", "loss", "ETA", "saved")
    return {
        key: short if shorts.count(short) == 1 and short not in taken else key
        for key, short in zip(keys, shorts, strict=True)
    }


def _newest(evals: Sequence[Mapping[str, Any]], quantity: Any) -> str:
    known = [entry for entry in evals if quantity.key in entry["results"]]
    return result_of(known[-1], quantity, with_count=True) if known else "-"


def _share(rows: Sequence[RunStatus]) -> float:
    steps = sum(row.steps or 0 for row in rows)
    return sum(min(row.step, row.steps or 0) for row in rows) / steps if steps else 0.0
