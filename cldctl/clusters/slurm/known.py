"""What is known about jobs: the answers of one Slurm to one user, as they are kept in a file."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from cld_core.run.events import CAUSES
from cld_core.small_files import real, text, whole
from cldctl.clusters.records import Phase, Seen

FORMAT = 1
# Answers about jobs that Slurm has forgotten are kept for this many seconds, and asked for again if still wanted.
FORGOTTEN_S = 24 * 3600.0
# A job that nobody has looked at for this many seconds is no longer asked about on behalf of others.
WANTED_S = 600.0
# More jobs than one user has in any queue.
MAX_JOBS = 100_000
_PHASES = get_args(Phase)
NOT_YET = "Slurm has not said anything about it yet"


@dataclass(frozen=True, kw_only=True)
class Known:
    """Answers about jobs, by job id.

    Attributes:
        asked_at: when Slurm was last asked, seconds since 1970; 0 if never.
        as_of: when it last answered.
        took_s: how long that took.
        strikes: questions in a row that it answered slowly, or not at all.
        problem: why the last question has no answer.
        queue: jobs that squeue shows.
        forgotten: jobs that it does not show, with the time since when that is known.
        wanted: jobs that somebody watches, with the time at which they said so.
    """

    asked_at: float = 0.0
    as_of: float = 0.0
    took_s: float = 0.0
    strikes: int = 0
    problem: str | None = None
    queue: Mapping[str, Seen] = field(default_factory=dict)
    forgotten: Mapping[str, tuple[float, Seen]] = field(default_factory=dict)
    wanted: Mapping[str, float] = field(default_factory=dict)

    def of(self, job_ids: Collection[str], settled: Collection[str] = ()) -> dict[str, Seen]:
        """What is known about jobs; those about which nothing is known are left out."""
        found = {}
        for job in job_ids:
            seen = self.queue.get(job)
            if seen is None and job in self.forgotten:
                seen = self.forgotten[job][1]
            if seen is None and job in settled:
                seen = Seen("gone")
            if seen is not None:
                found[job] = seen
        return found

    def lacks(self, job_ids: Collection[str], now: float) -> bool:
        """Whether the next question would leave one of these jobs out, because nobody is known to want it."""
        fresh = now - WANTED_S / 2
        return any(job not in self.forgotten and self.wanted.get(job, 0.0) < fresh for job in job_ids)

    def wanting(self, job_ids: Collection[str], now: float) -> "Known":
        """With jobs that somebody wants to know about from now on."""
        recent = {job: when for job, when in self.wanted.items() if now - WANTED_S < when <= now}
        return replace(self, wanted=recent | {job: now for job in job_ids if job not in self.forgotten})


def to_json(known: Known) -> dict[str, Any]:
    """As a JSON object; `of_json` reads it."""
    return {
        "format": FORMAT,
        **{name: getattr(known, name) for name in ("asked_at", "as_of", "took_s", "strikes", "problem")},
        "queue": {job: _row(seen) for job, seen in known.queue.items()},
        "forgotten": {job: [since, *_row(seen)] for job, (since, seen) in known.forgotten.items()},
        "wanted": dict(known.wanted),
    }


def of_json(content: Mapping[str, Any], now: float) -> Known:
    """What a file says; nothing at all if it is damaged, of another version, or from the future.

    Answers about jobs that Slurm has forgotten are left out if they are old.
    """
    times = [real(content.get(name)) for name in ("asked_at", "as_of", "took_s")]
    strikes = whole(content.get("strikes"))
    asked_at, as_of, took_s = times
    if content.get("format") != FORMAT or asked_at is None or as_of is None or took_s is None or strikes is None:
        return Known()
    if max(asked_at, as_of) > now + 1.0:
        return Known()
    forgotten = {}
    for job, row in _rows(content.get("forgotten")):
        since, seen = real(row[0]) if row else None, _seen(row[1:])
        if since is not None and seen is not None and now - FORGOTTEN_S < since <= now + 1.0:
            forgotten[job] = (since, seen)
    return Known(
        asked_at=asked_at,
        as_of=as_of,
        took_s=took_s,
        strikes=strikes,
        problem=text(content.get("problem")),
        queue={job: seen for job, row in _rows(content.get("queue")) if (seen := _seen(row)) is not None},
        forgotten=forgotten,
        wanted=_times(content.get("wanted")),
    )


def _row(seen: Seen) -> list[str | None]:
    return [seen.phase, seen.ended, seen.node, seen.reason, seen.word]


def _rows(content: Any) -> list[tuple[str, list[Any]]]:
    if not isinstance(content, dict) or len(content) > MAX_JOBS:
        return []
    return [(job, row) for job, row in content.items() if isinstance(row, list)]


def _seen(row: list[Any]) -> Seen | None:
    if len(row) != 5 or row[0] not in _PHASES or row[1] not in (None, *CAUSES) or None in map(text, row[2:]):
        return None
    return Seen(row[0], row[1], *row[2:])


def _times(content: Any) -> dict[str, float]:
    if not isinstance(content, dict) or len(content) > MAX_JOBS:
        return {}
    return {job: when for job, value in content.items() if (when := real(value)) is not None}
