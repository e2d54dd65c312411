"""Polling the clusters about the jobs of runs and their works, each cluster once."""

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cld_core.errors import NotFoundError, UsageError
from cld_core.run import RunFolder
from cld_core.run.events import Cancelled, GivenUp, JobRef
from cld_core.run.history import History
from cld_core.run.work import RequestedWork, Work, works_of
from cldctl import clusters
from cldctl.clusters.base import Answer, Cluster, SchedulerAway, Survey

# Seconds after which nothing more is expected of a job that wrote why it ends.
_SETTLED_S = 3600.0
# Causes after which a job begins again only if it puts itself back into the queue.
_ENDS = ("finished", "cancelled", "crashed", "out_of_memory", "nonfinite", "save_failed")
# Commands that only read accept an answer of this age, seconds; those that decide poll now.
TO_LOOK_S = 30.0
# Of a cluster that was not polled.
_NOTHING = Survey({})


@dataclass(frozen=True)
class Answers:
    """The answers of the clusters, by name of the cluster."""

    surveys: Mapping[str, Survey]

    def of(self, job: JobRef) -> Answer:
        return self.surveys.get(job.cluster, _NOTHING).of(job)

    def as_of(self, cluster: str) -> float | None:
        """The time of a cluster's answer, seconds since 1970; None if it was polled just now."""
        return self.surveys.get(cluster, _NOTHING).as_of

    def among(self, names: Iterable[str]) -> "Answers":
        """The answers of some clusters."""
        return Answers(
            {name: self.surveys[name] for name in dict.fromkeys(names) if name in self.surveys}
        )

    def may_live(self, job: JobRef, is_settled: bool) -> bool:
        """Whether a job may be alive; its launcher need not know a job whose end is known."""
        phase = self.of(job).phase
        return phase != "gone" and not (phase == "unknown" and is_settled)

    @property
    def clusters(self) -> list[Cluster]:
        """The clusters of the answers, without those that this version of cldctl does not know."""
        return [clusters.find(name) for name in self.surveys if name in clusters.CLUSTERS]

    @property
    def pause_s(self) -> float:
        """The least number of seconds before the clusters may be polled again."""
        pauses = (cluster.question_s for cluster in self.clusters)
        return max(pauses, default=Cluster.question_s)

    @property
    def problem(self) -> str | None:
        """One line about the clusters that could not be polled."""
        problems = dict.fromkeys(survey.problem for survey in self.surveys.values())
        return "; ".join(filter(None, problems)) or None

    @property
    def remark(self) -> str | None:
        """One line about the clusters that could not be polled, or whose answers are old."""
        remarks = dict.fromkeys(survey.remark for survey in self.surveys.values())
        return "; ".join(filter(None, [self.problem, *remarks])) or None

    def is_stale(self, cluster: str | None) -> bool:
        """Whether this cluster could not be polled, so that only the ledgers tell the states."""
        return self.surveys.get(cluster or "", _NOTHING).problem is not None

    def require(self, names: Iterable[str], otherwise: str) -> None:
        """Raise an error unless these clusters could be polled.

        Args:
            otherwise: what is not known or not done without their answers; a sentence without its
                full stop.

        Raises:
            UsageError: a cluster is not known to this version of cldctl.
            SchedulerAway: a cluster does not answer, or cannot be polled on this machine.
        """
        stale = [name for name in dict.fromkeys(names) if self.is_stale(name)]
        problem = self.among(stale).problem
        if any(name not in clusters.CLUSTERS for name in stale):
            raise UsageError(f"{problem}. {otherwise}. Use the cldctl that submitted the job.")
        if problem is not None:
            advice = " or ".join(dict.fromkeys(self.surveys[name].advice for name in stale))
            raise SchedulerAway(f"{problem}. {otherwise}; {advice}.")

    def require_about(self, jobs: Iterable[tuple[JobRef, bool]], otherwise: str) -> None:
        """`require` the clusters of those jobs whose end is not known.

        Args:
            jobs: each with whether its end is known (`jobs_of`).
        """
        self.require((job.cluster for job, is_settled in jobs if not is_settled), otherwise)


def ask(
    jobs: Iterable[JobRef], settled: Iterable[JobRef] = (), *, max_age_s: float = 0.0
) -> Answers:
    """Poll the clusters of jobs.

    Args:
        settled: the jobs whose end is known; accounting need not have them.
        max_age_s: an answer of this age, in seconds, is good enough.
    """
    settled_of = by_cluster(settled)
    surveys = {
        name: _survey(name, on_cluster, settled_of.get(name, []), max_age_s)
        for name, on_cluster in by_cluster(jobs).items()
    }
    return Answers(surveys)


def started_works(run: RunFolder, name: str) -> list[RequestedWork]:
    """A started evaluation or tuning, or all started evaluations of a sweep or comparison.

    Args:
        name: its id, or a prefix of the id that no other started one shares.

    Raises:
        NotFoundError: there is no such evaluation, or no job of it.
        UsageError: several ids have this prefix.
    """
    from cld_core.run.evaluations import sweeps_of

    works = {work.name: work for work in works_of(run) if work.ledger.history().jobs}
    by_name = {key: [work] for key, work in works.items()}
    for _, sweep in sweeps_of(run):
        members = [work for key, work in works.items() if key in sweep.evaluations]
        if members:
            by_name[sweep.id] = members
    if name in by_name:
        return by_name[name]
    close = [key for key in by_name if name and key.startswith(name)]
    if len(close) > 1:
        raise UsageError(
            f"'{name}' is the beginning of {len(close)} evaluations of {run.name}: "
            f"{', '.join(close)}. Write more of the id."
        )
    if not close:
        existing = ", ".join(by_name) or "none"
        raise NotFoundError(
            f"{run.name} has no evaluation {name} that was started. It has: {existing}."
        )
    return by_name[close[0]]


def of_runs(runs: Iterable[RunFolder], *, max_age_s: float = 0.0) -> Answers:
    """Poll the clusters about all jobs of runs and their works, except for damaged runs."""
    return ask_about(jobs_of_all(runs), max_age_s=max_age_s)


def ask_about(jobs: Sequence[tuple[JobRef, bool]], *, max_age_s: float = 0.0) -> Answers:
    """Poll the clusters about jobs.

    Args:
        jobs: each with whether its end is known (`jobs_of`).
    """
    settled = [job for job, is_settled in jobs if is_settled]
    return ask([job for job, _ in jobs], settled, max_age_s=max_age_s)


def fresh_answers(run: RunFolder, max_age_s: float) -> Answers:
    """Answers about a run that are not older than this, seconds.

    One poll about many runs serves each of them.
    """
    if max_age_s > 0.0:
        answers = of_runs([run], max_age_s=max_age_s)
        times = [poll.as_of for poll in answers.surveys.values() if poll.as_of is not None]
        now = time.time()
        if answers.problem is None and all(0.0 <= now - as_of <= max_age_s for as_of in times):
            return answers
    return of_runs([run])


def jobs_of(run: RunFolder, works: Iterable[Work] | None = None) -> Iterator[tuple[JobRef, bool]]:
    """Every job of a run, training first, and whether its end is known.

    It is known if the work is finished, or the ledger has the job's end. Jobs that were turned away
    are among them: one may wait in the queue if the scheduler did not cancel it.

    Args:
        works: its evaluations and tunings, if the caller has them.
    """
    if run.format_problem() is not None and not run.is_damaged:
        return
    history = run.ledger.history()
    over = _over(history)
    finished_at = 0.0
    if history.last is not None and history.cause == "finished":
        finished_at = history.last.ended or 0.0
    for event in history.submitted:
        yield event.job, event.time < finished_at or event.job.job_id in over
    for work in works_of(run) if works is None else works:
        is_done = work.is_done
        history = work.ledger.history()
        over = _over(history)
        for event in history.submitted:
            yield event.job, is_done or event.job.job_id in over


def jobs_of_all(runs: Iterable[RunFolder]) -> list[tuple[JobRef, bool]]:
    """The jobs of several runs, each with whether its end is known; damaged runs are skipped."""
    jobs: list[tuple[JobRef, bool]] = []
    for run in runs:
        # A damaged run does not hide the others; `status_or_reason` says what is wrong with it.
        with contextlib.suppress(Exception):
            jobs += jobs_of(run)
    return jobs


def _over(history: History) -> set[str]:
    """The jobs whose end the ledger has, and that wrote nothing into it in the hour since."""
    before = time.time() - _SETTLED_S
    attempts = {attempt.job_id: attempt for attempt in history.attempts}
    over = set()
    for job_id, event in history.last_of.items():
        written = event.time
        # The newest attempt of a job decides.
        if (attempt := attempts.get(job_id)) is not None:
            has_ended = attempt.cause in _ENDS and not history.was_requeued(attempt)
            written = max(attempt.ended or attempt.started, written)
        elif isinstance(event, Cancelled):
            has_ended = job_id in history.cancelled
        else:
            has_ended = isinstance(event, GivenUp)
        if has_ended and written < before:
            over.add(job_id)
    return over


def by_cluster(jobs: Iterable[JobRef]) -> dict[str, list[JobRef]]:
    """Jobs by the names of their clusters."""
    grouped: dict[str, list[JobRef]] = {}
    for job in jobs:
        grouped.setdefault(job.cluster, []).append(job)
    return grouped


def _survey(
    name: str, jobs: Collection[JobRef], settled: Collection[JobRef], max_age_s: float
) -> Survey:
    if name not in clusters.CLUSTERS:
        return Survey({}, f"cluster '{name}' is not known to this cldctl")
    try:
        return clusters.find(name).survey(jobs, settled=settled, max_age_s=max_age_s)
    except SchedulerAway as error:
        return Survey({}, str(error))
    except Exception as error:
        # An error of one cluster does not hide the runs of the others.
        return Survey({}, f"cluster '{name}' could not be asked: {type(error).__name__}: {error}")


@dataclass
class EndDetector:
    """Consecutive looks at which everything seemed to be over.

    Attributes:
        seen: the number of these looks.
        max_age_s: the greatest age of the next answer: an apparent end is confirmed by a new poll.
    """

    seen: int = 0
    max_age_s: float = TO_LOOK_S

    def look(self, is_over: bool, answers: Answers, *, is_sure: bool) -> bool:
        """Count another look; return whether as many looks agree as the clusters need.

        Args:
            is_sure: whether the files or a launcher are certain of it; else the last answer of a
                launcher that is away does not count.
        """
        if not is_over:
            self.seen = 0
        elif is_sure or answers.problem is None:
            self.seen += 1
        self.max_age_s = 0.0 if self.seen and answers.problem is None and not is_sure else TO_LOOK_S
        needed = (cluster.looks_to_believe_an_end for cluster in answers.clusters)
        return self.seen >= max(needed, default=1)
