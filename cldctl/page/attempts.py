"""The attempts of a run as a time line, coloured by what ended them, and as a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cld_core.run.events import CAUSES
from cld_core.run.timeline import Stretch
from cld_core.texts import local_time
from cldctl.show.format import count, duration

from .table import Table

# The width of the time line, and the least of a bar that people can still see.
WIDTH, _LEAST = 1000.0, 2.0
# What bars stand for, besides causes: what the style sheet calls them, and what people read.
_WAITING, _STARTING, _RUNNING = "waiting", "starting", "running"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A stretch of time: ``kind`` is a cause of the ledger, or waiting, starting or running."""

    kind: str
    x: float
    width: float
    about: str


@dataclass(frozen=True, kw_only=True)
class TimeLine:
    """Bars from the first to the last moment; ``kinds`` are those that the legend explains."""

    bars: list[Bar]
    kinds: list[tuple[str, str]]
    begin: str
    end: str
    length: str
    about: str


def time_line(attempts: Sequence[Stretch], *, alive: bool) -> TimeLine | None:
    """The attempts against time; None if there is none.

    Args:
        alive: whether the newest one is training.
    """
    if not attempts:
        return None
    begin = min(moment for it in attempts for moment in (it.began, it.queued) if moment is not None)
    end = max(it.until for it in attempts)
    scale = WIDTH / max(end - begin, 1e-3)
    bars = [
        _bar(kind, (first - begin) * scale, (last - begin) * scale, about)
        for place, it in enumerate(attempts)
        for kind, first, last, about in _parts(it, alive=alive and place == len(attempts) - 1)
    ]
    found = {bar.kind for bar in bars}
    order = [_WAITING, _STARTING, _RUNNING, *CAUSES, "unknown"]
    ended = ", ".join(it.attempt.cause or "no recorded end" for it in attempts[-10:])
    return TimeLine(
        bars=bars,
        kinds=[(kind, kind.replace("_", " ")) for kind in order if kind in found],
        begin=local_time(begin),
        end="now" if alive else local_time(end),
        length=duration(end - begin),
        about=f"{len(attempts)} attempts in {duration(end - begin)}; the last ended by: {ended}",
    )


def table(attempts: Sequence[Stretch]) -> Table | None:
    """The attempts, oldest first; None if there is none."""
    if not attempts:
        return None
    rows = []
    for it in attempts:
        attempt = it.attempt
        cause = (attempt.cause or "-").replace("_", " ")
        hosts = list(dict.fromkeys(attempt.hosts)) or ([attempt.host] if attempt.host else [])
        rows.append(
            [
                str(attempt.attempt),
                str(attempt.job_id or "-"),
                local_time(attempt.started),
                ", ".join(hosts[:2]) + (f" and {len(hosts) - 2} more" if len(hosts) > 2 else "") or "-",
                count(attempt.first_step),
                count(attempt.last_step),
                count(it.lost),
                duration(it.waited_s),
                duration(it.allocated_s),
                cause + (f": {attempt.detail}" if attempt.detail else ""),
            ]
        )
    headings = ["attempt", "job", "began", "machine", "from", "to", "lost", "waited", "ran", "ended by"]
    right = frozenset({"from", "to", "lost", "waited", "ran"})
    return Table(caption="Attempts, oldest first", headings=headings, rows=rows, right=right)


def _parts(it: Stretch, *, alive: bool) -> Iterator[tuple[str, float, float, str]]:
    """What an attempt consists of: its kind, first and last moment, and what it was in words."""
    attempt = it.attempt
    name = f"attempt {attempt.attempt}"
    if it.queued is not None and it.waited_s >= 1:
        yield _WAITING, it.queued, it.began, f"{name} waited {duration(it.waited_s)}"
    if it.startup_s >= 1:
        yield _STARTING, it.began, attempt.started, f"{name} started up for {duration(it.startup_s)}"
    kind = _RUNNING if alive else attempt.cause if attempt.cause in CAUSES else "unknown"
    ended = "runs" if alive else f"ended by: {(attempt.cause or 'unknown').replace('_', ' ')}"
    steps = f"steps {count(attempt.first_step)} to {count(attempt.last_step)}"
    yield kind, attempt.started, it.until, f"{name}, {steps}, {duration(it.trained_s)}; {ended}"


def _bar(kind: str, first: float, last: float, about: str) -> Bar:
    """A bar that can be seen, and does not leave the time line."""
    x = min(max(first, 0.0), WIDTH - _LEAST)
    return Bar(kind=kind, x=x, width=min(max(last - x, _LEAST), WIDTH - x), about=about)
