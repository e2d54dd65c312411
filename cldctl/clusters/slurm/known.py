"""What is known about jobs: the answers of one Slurm to one user, as they are kept in a file."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cld_core.codec import RecordError, from_plain, to_plain
from cldctl.clusters.records import Seen

FORMAT = 1
# Answers about jobs that Slurm has forgotten are kept for this many seconds, and asked for again if still wanted.
FORGOTTEN_S = 24 * 3600.0
# A job that nobody has looked at for this many seconds is no longer asked about on behalf of others.
WANTED_S = 600.0
# More jobs than one user has in any queue.
MAX_JOBS = 100_000
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
    return {"format": FORMAT, **to_plain(known)}


def of_json(content: Mapping[str, Any], now: float) -> Known:
    """What a file says; nothing at all if it is damaged, of another version, or from the future.

    Answers about jobs that Slurm has forgotten are left out if they are old.
    """
    try:
        known = from_plain(Known, content)
    except RecordError:
        return Known()
    is_ours = content.get("format") == FORMAT and max(known.asked_at, known.as_of) <= now + 1.0
    if not is_ours or max(map(len, (known.queue, known.forgotten, known.wanted))) > MAX_JOBS:
        return Known()
    forgotten = {job: kept for job, kept in known.forgotten.items() if now - FORGOTTEN_S < kept[0] <= now + 1.0}
    return replace(known, forgotten=forgotten)
