"""The first line of the screen: which folder, how many runs in which state, and what is left out."""

from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.text import Text

from cldctl.runs.status import RunStatus
from cldctl.show.tables import STATE_STYLE

from .arrange import counts
from .fitting import ELLIPSIS, cut, cut_in_the_middle

# Columns of the folder: fewer tell nobody which one it is.
_LEAST, _MOST = 8, 30


def top_line(root: Path, rows: Sequence[RunStatus], only: str, width: int) -> Text:
    """The line.

    Args:
        rows: all runs, filtered or not.
        only: what the filters let through; empty for everything.
    """
    filters = cut(f"only {only}", width) if only else ""
    room = width - cell_len(filters) - (2 if filters else 0)
    states = _states(rows, room)
    left = room - states.cell_len - 2
    place = cut_in_the_middle(str(root), min(left, _MOST)) if left >= _LEAST else ""
    line = Text.assemble((place, "bold"), "  " if place else "", states)
    if filters:
        line.pad_right(max(width - line.cell_len - cell_len(filters), 0))
        line.append(filters, "bold yellow")
    return line


def _states(rows: Sequence[RunStatus], room: int) -> Text:
    """How many runs are in each state, in whole words; what does not fit is left out at the end."""
    found = counts(rows)
    whole = sum(len(f"{number} {state}") + 2 for state, number in found) - 2
    gap = "  " if whole <= room else " "
    line = Text()
    for place, (state, number) in enumerate(found):
        word = f"{gap if place else ''}{number} {state}"
        if line.cell_len + len(word) + (2 if place + 1 < len(found) else 0) > room:
            return line.append(f" {ELLIPSIS}", "dim") if line.plain else line
        line.append(word, STATE_STYLE.get(state, ""))
    return line
