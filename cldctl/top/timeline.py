"""The attempts of a run as a line: when its job waited, started and trained, and how each attempt ended."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from cld_core.run.causes import fate_of
from cld_core.run.events import Cause
from cld_core.run.timeline import Stretch
from cld_core.texts import local_time, one_line
from cldctl.show.format import duration

# The letter at the end of an attempt, so that the line can be read without colours.
LETTERS: dict[Cause, str] = {
    "finished": "F",
    "preempted": "P",
    "timeout": "T",
    "terminated": "S",
    "cancelled": "C",
    "requeued": "Q",
    "node_failure": "N",
    "out_of_memory": "M",
    "crashed": "X",
    "nonfinite": "I",
    "save_failed": "W",
    "imported": "i",
    "killed": "K",
    "unfit": "U",
}
_ALIVE = "▶"
_UNKNOWN = "?"
_WAITING, _STARTING, _TRAINING, _NOTHING = "░", "▒", "█", "·"


def style_of(cause: Cause | None, *, alive: bool = False) -> str:
    """The colour of a cause: of what came to an end, of what was taken away, of what failed."""
    if cause is None:
        return "bold green" if alive else "bold red"
    if cause in ("finished", "imported"):
        return "green"
    if cause == "cancelled":
        return "magenta"
    return "yellow" if fate_of(cause) == "preemption" else "bold red"


@dataclass(frozen=True)
class _Piece:
    """A time in which one thing happened, from ``begin`` to ``end``, seconds since 1970."""

    begin: float
    end: float
    mark: str
    style: str


def time_line(attempts: Sequence[Stretch], width: int, *, alive: bool, waits_since: float | None = None) -> list[Text]:
    """Three lines: the attempts on a scale of time, when the scale begins and ends, and what the marks mean.

    Args:
        attempts: oldest first.
        alive: whether the newest one is training.
        waits_since: when the job that now waits was put into the queue, seconds since 1970; None if none waits.
    """
    if not attempts or width < 2:
        return []
    pieces = [piece for place, it in enumerate(attempts) for piece in _pieces(it, _is_alive(attempts, place, alive))]
    if waits_since is not None:
        pieces.append(_Piece(max(waits_since, attempts[-1].until), time.time(), _WAITING, "yellow"))
    first, last = min(it.begin for it in pieces), max(it.end for it in pieces)
    scale = max(last - first, 1e-9)

    def cell(moment: float) -> int:
        return min(max(int((moment - first) / scale * width), 0), width - 1)

    cells = [(_NOTHING, "dim")] * width
    for piece in pieces:
        begin, end = cell(piece.begin), cell(piece.end)
        cells[begin : end + 1] = [(piece.mark, piece.style)] * (end - begin + 1)
    for place, attempt in enumerate(attempts):
        cause, is_alive = attempt.attempt.cause, _is_alive(attempts, place, alive)
        cells[cell(attempt.until)] = (_letter(cause, is_alive), f"reverse {style_of(cause, alive=is_alive)}")
    now_waits = waits_since is not None
    return [Text.assemble(*cells), _ends(first, last, width, is_now=alive or now_waits), _legend(attempts, alive)]


def _is_alive(attempts: Sequence[Stretch], place: int, alive: bool) -> bool:
    return alive and place == len(attempts) - 1 and attempts[place].attempt.cause is None


def _pieces(it: Stretch, alive: bool) -> list[_Piece]:
    """Waiting, starting and training, in this order: what comes later is drawn over what was before."""
    style = style_of(it.attempt.cause, alive=alive)
    pieces = [_Piece(it.attempt.started, it.until, _TRAINING, style)]
    if it.startup_s > 0:
        pieces.insert(0, _Piece(it.began, it.attempt.started, _STARTING, "cyan"))
    if it.waited_s > 0:
        pieces.insert(0, _Piece(it.began - it.waited_s, it.began, _WAITING, "yellow"))
    return pieces


def _letter(cause: Cause | None, alive: bool) -> str:
    return (_ALIVE if alive else _UNKNOWN) if cause is None else LETTERS.get(cause, _UNKNOWN)


def _ends(first: float, last: float, width: int, *, is_now: bool) -> Text:
    """The times at both ends of the scale; the first one alone if there is no room for both."""
    begin, whole = _moment(first), duration(last - first)
    end = "now" if is_now else _moment(last)
    room = width - len(begin) - len(end)
    middle = f"{whole}".center(room) if room >= len(whole) + 2 else " " * max(room, 1)
    return Text(f"{begin}{middle}{end}" if room >= 1 else begin[:width], "dim")


def _moment(when: float) -> str:
    return local_time(when, "%b %d %H:%M", unknown="?")


def _legend(attempts: Sequence[Stretch], alive: bool) -> Text:
    """What the letters mean that are there, and how often; then the other marks that are there."""
    found: dict[tuple[str, str, str], int] = {}
    for place, it in enumerate(attempts):
        cause, is_alive = it.attempt.cause, _is_alive(attempts, place, alive)
        word = one_line((cause or ("running" if is_alive else "no end recorded")).replace("_", " "), 20)
        key = (_letter(cause, is_alive), word, style_of(cause, alive=is_alive))
        found[key] = found.get(key, 0) + 1
    legend = Text().append(f"{len(attempts)} attempt{'s' if len(attempts) > 1 else ''}: ", "dim")
    for (letter, word, style), count in found.items():
        legend.append(letter, f"reverse {style}")
        legend.append(f" {word}{f' ×{count}' if count > 1 else ''}  ")
    if any(it.waited_s > 0 for it in attempts):
        legend.append(_WAITING, "yellow").append(" queued  ")
    if any(it.startup_s > 0 for it in attempts):
        legend.append(_STARTING, "cyan").append(" starting")
    return legend
