"""Which rank of an attempt failed first, and its last words."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import NotFoundError
from cld_core.run import RunFolder
from cld_core.run.events import Failed, fate_of
from cld_core.run.history import Attempt, History
from cld_core.sanitize import printable
from cldctl import clusters
from cldctl.jobs.blame import is_secondary

from . import logs
from .logs import Part, time_of

# So many of the last lines of a log are looked at, and so many of them, and characters of a line, are shown.
_LOOKED_AT = 400
_LAST_LINES = 10
_MOST = 300
# An error of Python or of ours at the beginning of a line, or after the number of its rank.
_ERROR = re.compile(r"^(?:\[?rank ?\d+\]?: ?)?(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b.*|error: .*)$")


@dataclass(frozen=True)
class FirstFailure:
    """The rank that failed first in an attempt.

    Attributes:
        rank: None if nobody knows which it was.
        reason: what it died of, one line.
        time: when it failed, seconds since 1970; None if only the order of messages is known.
        lines: its last words, without control characters.
        file: the log that they are in.
    """

    attempt: int
    rank: int | None
    host: str | None
    reason: str | None
    time: float | None
    lines: tuple[str, ...] = ()
    file: Path | None = None


def last_failed(history: History) -> Attempt | None:
    """The newest attempt that ended by an error of its own or of its machines."""
    return next((it for it in reversed(history.attempts) if fate_of(it.cause) == "crashes"), None)


def failed_log(run: RunFolder, attempt: int | None) -> tuple[logs.Log, str]:
    """The log of the rank that failed first in an attempt, by default the last one that failed, and a line about it.

    Raises:
        NotFoundError: no attempt failed, or there is no such one, or it did not fail.
    """
    history = run.ledger.history()
    chosen = last_failed(history)
    if attempt is not None:
        logs.of_training(run, attempt, 0)
        chosen = next(it for it in history.attempts if it.attempt == attempt)
        if fate_of(chosen.cause) != "crashes":
            how = f"it ended as {chosen.cause}" if chosen.cause else "nobody has recorded its end"
            raise NotFoundError(f"{run.name}: attempt {attempt} did not fail ({how}). Leave out --failed.")
    if chosen is None:
        raise NotFoundError(f"no attempt of {run.name} has failed. `cldctl why {run.name}` says what happened.")
    first = first_failure(run, history, chosen)
    rank = first.rank or 0
    where = f" on {first.host}" if first.host else ""
    who = f"rank {rank}{where}" if first.rank is not None else "rank 0 (the first rank to fail is unknown)"
    return logs.of_training(run, chosen.attempt, rank), f"attempt {chosen.attempt}, {who}"


def first_failure(run: RunFolder, history: History, attempt: Attempt) -> FirstFailure:
    """Who failed first, by what the ranks have noted, else by what the launcher and the ranks have printed."""
    first = _noted(history, attempt)
    if first is not None:
        lines, file = last_words(run, attempt, first.rank, _LAST_LINES)
        return FirstFailure(attempt.attempt, first.rank, first.host, first.reason, first.time, lines, file)
    found = _by_launcher(run, attempt) or _by_logs(run, attempt)
    # Of one rank alone, nobody has to say that it was the first.
    alone = (0, attempt.host) if attempt.ranks == 1 else (None, None)
    rank, host, reason, time = found or (*alone, attempt.detail, attempt.ended)
    lines, file = last_words(run, attempt, rank or 0, _LAST_LINES)
    return FirstFailure(attempt.attempt, rank, host, reason, time, lines, file)


def _noted(history: History, attempt: Attempt) -> Failed | None:
    """What the rank that failed first has noted.

    Of what the peers of a rank that was killed have noted, nothing says who that was.
    """
    told = [
        event for event in history.failures if event.kind == "rank" and event.start == (attempt.job_id, attempt.restart)
    ]
    return min((it for it in told if not is_secondary(it.reason)), key=lambda it: it.time, default=None)


def with_culprits(history: History) -> History:
    """Details of attempts that blame another rank, replaced by what that one has noted, if it has."""

    def told(attempt: Attempt) -> Attempt:
        if not is_secondary(attempt.detail or "") or (first := _noted(history, attempt)) is None:
            return attempt
        return dataclasses.replace(attempt, detail=f"rank {first.rank} on {first.host}: {first.reason}")

    attempts = list(map(told, history.attempts))
    return history if attempts == history.attempts else dataclasses.replace(history, attempts=attempts)


def last_words(run: RunFolder, attempt: Attempt, rank: int, most: int) -> tuple[tuple[str, ...], Path | None]:
    """The last lines of a rank in an attempt that say what went wrong, and the file that they are in.

    Those of its errors, up to the error itself: what its launcher and its watchers wrote afterwards says less.
    """
    best: tuple[tuple[str, ...], Path | None] = ((), None)
    for part in reversed(_parts(run, attempt, rank)):
        lines = _tail(part)
        if any(map(_is_error, lines)):
            last = max(place for place, line in enumerate(lines) if _is_error(line))
            return tuple(lines[max(0, last + 1 - most) : last + 1]), part.file
        if lines and best[1] is None:
            best = tuple(lines[-most:]), part.file
    return best


def _is_error(line: str) -> bool:
    return _ERROR.match(line) is not None


def _by_launcher(run: RunFolder, attempt: Attempt) -> tuple[int, str | None, str, float | None] | None:
    """The task that the launcher saw end badly first."""
    jobs = (event.job for event in run.ledger.history().submitted if event.job.job_id == attempt.job_id)
    name = next((job.cluster for job in jobs), None)
    if name not in clusters.CLUSTERS:
        return None
    for part in _parts(run, attempt, 0):
        if part.is_errors and (ended := clusters.find(name).ended_tasks("\n".join(_tail(part)))):
            return ended[0].rank, ended[0].node, ended[0].how, None
    return None


def _by_logs(run: RunFolder, attempt: Attempt) -> tuple[int, str | None, str, float | None] | None:
    """The rank whose own error, not that of a peer, was printed first."""
    found = []
    for rank in _ranks(run, attempt):
        for part in _parts(run, attempt, rank):
            if part.is_errors and (said := _own_error(part)) is not None:
                found.append((said[1], rank, said[0]))
    if not found:
        return None
    time, rank, reason = min(found)
    return rank, None, reason, time


def _own_error(part: Part) -> tuple[str, float] | None:
    """The error that a rank ended with, and when; None if it blames another one."""
    lines = _tail(part)
    errors = [line for line in lines if _is_error(line)]
    if not errors or is_secondary(errors[-1]):
        return None
    times = [time for line in lines if (time := time_of(line.encode())) is not None]
    try:
        written = os.stat(part.file).st_mtime if part.end is None else None
    except OSError:
        written = None
    return errors[-1], written if written is not None else max(times, default=0.0)


def _ranks(run: RunFolder, attempt: Attempt) -> list[int]:
    with contextlib.suppress(NotFoundError, OSError):
        return [log.rank for log in logs.of_training(run, attempt.attempt, 0).all_ranks()]
    return []


def _parts(run: RunFolder, attempt: Attempt, rank: int) -> Sequence[Part]:
    with contextlib.suppress(NotFoundError, OSError):
        return logs.of_training(run, attempt.attempt, rank).parts()
    return ()


def _tail(part: Part) -> list[str]:
    """The last lines of a part, without blank ones and marks."""
    return [line for line in _texts(part) if line and not line.startswith("--- start ")]


def _texts(part: Part) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in part.last(_LOOKED_AT).lines():
            yield printable(line[: 8 * _MOST].decode(errors="replace"), keep="\t").rstrip()[:_MOST]
