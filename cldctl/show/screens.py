"""What fits on a screen: runs that are alive come first, and what does not fit is counted in one line."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from cldctl.runs.state import ALIVE
from cldctl.runs.status import RunStatus

from .console import out
from .tables import overview

_FIX = "--all, or --state, --since, --tag"


def most_that_fit(rows: Sequence[RunStatus], height: int, *, is_sorted: bool = False) -> RenderableType:
    """The overview of as many rows as there are lines for: of those that are alive, and of the last others.

    Args:
        is_sorted: somebody asked for this order, so that it stays; else those that are alive are at the top.
    """
    ranked = by_importance(rows)

    def view(shown: int) -> RenderableType:
        return overview(in_place(ranked[:shown], rows, is_sorted=is_sorted), compact=shown < len(rows))

    return fitting(len(rows), height, view, lambda shown: left_out(ranked[shown:]))


def in_place(chosen: Sequence[RunStatus], rows: Sequence[RunStatus], *, is_sorted: bool = False) -> list[RunStatus]:
    """Some of ``rows`` in the order that these have, but those that are alive first, unless the order is asked for."""
    wanted = {id(row) for row in chosen}
    kept = [row for row in rows if id(row) in wanted]
    return kept if is_sorted or len(kept) == len(rows) else sorted(kept, key=lambda row: row.state not in ALIVE)


def by_importance(rows: Sequence[RunStatus]) -> list[RunStatus]:
    """Those that train, then those that wait, then the others; the last of each first."""
    order = {state: place for place, state in enumerate(ALIVE)}
    ranked = [*reversed(rows)]
    ranked.sort(key=lambda row: order.get(row.state, len(ALIVE)))
    return ranked


def fitting(
    most: int, height: int, view: Callable[[int], RenderableType], note: Callable[[int], RenderableType]
) -> RenderableType:
    """The view of as many of ``most`` rows as there are lines for, with a note if some are left out.

    Args:
        height: lines of the terminal; one stays free for the cursor.
        view, note: of the rows that are shown, and of those that are not, if so many are shown.
    """
    shown = min(most, height)
    while True:
        whole = Group(view(shown), *([note(shown)] if shown < most else []))
        if shown <= 1 or len(out.render_lines(whole)) < height:
            return whole
        shown -= 1


def left_out(rows: Sequence[RunStatus], groups: int = 0) -> Text:
    """How many runs are not shown, how many of them train, and how to see them."""
    training = sum(row.state == "RUNNING" for row in rows)
    what = f"{len(rows):,}"
    if groups:
        what = " and ".join(([_some(len(rows), "run")] if rows else []) + [_some(groups, "group")])
    running = f" ({training:,} RUNNING)" if training else ""
    return Text(f"… and {what} more{running}: {_FIX}", style="dim", no_wrap=True, overflow="ellipsis")


def _some(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
