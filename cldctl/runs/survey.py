"""The work of runs, and asking the clusters about the jobs of all of it at once, each cluster only
about its own."""

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
from cldctl.clusters.base import SchedulerAway, Seen, Survey

# Seconds after which nothing more is expected of a job that wrote why it ends.
_SETTLED_S = 3600.0
# Causes after which a job goes on only if it puts itself back into the queue.
_ENDS = ("finished", "cancelled", "crashed", "out_of_memory", "nonfinite", "save_failed")
# Who only looks takes an answer of this age, in seconds; who decides something by it asks now.
TO_LOOK_S = 30.0
# Of a cluster that was not asked.
_NOTHING = Survey({})


@dataclass(frozen=True)
class Answers:
    """What the clusters said, by name of the cluster."""

    surveys: Mapping[str, Survey]

    def of(self, job: JobRef) -> Seen:
        return self.surveys.get(job.cluster, _NOTHING).of(job)

    def as_of(self, cluster: str) -> float | None:
        """When a cluster said so, seconds since 1970; None if it was asked just now."""
        return self.surveys.get(cluster, _NOTHING).as_of

    def among(self, names: Iterable[str]) -> "Answers":
        """Those of some clusters."""
        return Answers(
            {name: self.surveys[name] for name in dict.fromkeys(names) if name in self.surveys}
        )

    def may_live(self, job: JobRef, is_settled: bool) -> bool:
        """Whether a job may still do something; of one whose end is known, its launcher need not
        know anything."""
        phase = self.of(job).phase
        return phase != "gone" and not (phase == "unknown" and is_settled)

    @property
    def problem(self) -> str | None:
        """One line on the clusters that could not be asked."""
        problems = dict.fromkeys(
            survey.problem for survey in self.surveys.values() if survey.problem
        )
        return "; ".join(problems) or None

    @property
    def remark(self) -> str | None:
        """One line on what is worth knowing: who could not be asked, or whose answers are old."""
        remarks = dict.fromkeys(survey.remark for survey in self.surveys.values() if survey.remark)
        return "; ".join(filter(None, [self.problem, *remarks])) or None

    def is_stale(self, cluster: str | None) -> bool:
        """Whether this cluster could not be asked, so that states are those that the runs wrote
        themselves."""
        return self.surveys.get(cluster or "", _NOTHING).problem is not None

    def require(self, names: Iterable[str], otherwise: str) -> None:
        """Refuse to go on unless these clusters could be asked.

        Args:
            otherwise: what is not known or not done without their answers; a sentence without its
                full stop.

        Raises:
            UsageError: this cldctl does not know one of them, and so never will.
            SchedulerAway: one does not answer, or cannot be asked on this machine.
        """
        stale = [name for name in dict.fromkeys(names) if self.is_stale(name)]
        problem = self.among(stale).problem
        if any(name not in clusters.CLUSTERS for name in stale):
            raise UsageError(f"{problem}. {otherwise}. Use the cldctl that submitted the job.")
        if problem is not None:
            advice = " or ".join(dict.fromkeys(self.surveys[name].advice for name in stale))
            raise SchedulerAway(f"{problem}. {otherwise}; {advice}.")


def needed_for(jobs: Iterable[tuple[JobRef, bool]]) -> Iterator[str]:
    """The clusters whose answers matter for jobs as `jobs_of` has them: not of those whose end is
    known."""
    return (job.cluster for job, is_settled in jobs if not is_settled)


def ask(
    jobs: Iterable[JobRef], settled: Iterable[JobRef] = (), *, max_age_s: float = 0.0
) -> Answers:
    """Ask about jobs.

    Args:
        settled: those whose end is known: nobody waits for accounting because of them.
        max_age_s: an answer of this age, in seconds, is good enough.
    """
    known = by_cluster(settled)
    asked = by_cluster(jobs).items()
    return Answers(
        {name: _survey(name, mine, known.get(name, []), max_age_s) for name, mine in asked}
    )


def started_works(run: RunFolder, name: str) -> list[RequestedWork]:
    """An evaluation or a tuning that was started, or all evaluations of a sweep or comparison that
    were.

    Args:
        name: its id, or the beginning of that if no other one that was started begins so.

    Raises:
        NotFoundError: there is no such evaluation, or no job of it.
        UsageError: several begin like that.
    """
    from cld_core.run.evaluations import sweeps_of

    started = {work.name: work for work in works_of(run) if work.ledger.history().jobs}
    members = {one for _, sweep in sweeps_of(run) if sweep.id == name for one in sweep.evaluations}
    if found := [work for key, work in started.items() if key in members]:
        return found
    close = [name] if name in started else [key for key in started if name and key.startswith(name)]
    if len(close) > 1:
        text = (
            f"'{name}' is the beginning of {len(close)} evaluations of {run.name}: "
            f"{', '.join(close)}"
        )
        raise UsageError(f"{text}. Write more of the id.")
    if not close:
        existing = ", ".join(started) or "none"
        raise NotFoundError(
            f"{run.name} has no evaluation {name} that was started. It has: {existing}."
        )
    return [started[close[0]]]


def of_runs(runs: Iterable[RunFolder], *, max_age_s: float = 0.0) -> Answers:
    """Ask about all jobs of runs, of their evaluations and tunings; those of a damaged file are
    left out."""
    return ask_about(jobs_of_all(runs), max_age_s=max_age_s)


def ask_about(jobs: Sequence[tuple[JobRef, bool]], *, max_age_s: float = 0.0) -> Answers:
    """Ask about jobs as `jobs_of` has them."""
    return ask(
        [job for job, _ in jobs],
        [job for job, is_settled in jobs if is_settled],
        max_age_s=max_age_s,
    )


def lately(run: RunFolder, max_age_s: float) -> Answers:
    """Answers about a run that are not older than this: one question about many runs is enough for
    each of them."""
    if max_age_s > 0.0:
        answers = of_runs([run], max_age_s=max_age_s)
        ages = [time.time() - it.as_of for it in answers.surveys.values() if it.as_of is not None]
        if answers.problem is None and all(0.0 <= age <= max_age_s for age in ages):
            return answers
    return of_runs([run])


def jobs_of(run: RunFolder, works: Iterable[Work] | None = None) -> Iterator[tuple[JobRef, bool]]:
    """Every job of a run, training first, and whether it is known that it ended: its work is
    finished, or it says so.

    Those that were turned away are among them: one may wait in the queue, if the scheduler did not
    cancel it.

    Args:
        works: its evaluations and tunings, if the caller has them.
    """
    if run.format_problem() is not None and not run.is_damaged:
        return
    history = run.ledger.history()
    over = _over(history)
    finished_at = (
        (history.last.ended or 0.0) if history.last and history.cause == "finished" else 0.0
    )
    for event in history.submitted:
        yield event.job, event.time < finished_at or event.job.job_id in over
    for work in works_of(run) if works is None else works:
        is_done, of_work = work.is_done, work.ledger.history()
        over = _over(of_work)
        for event in of_work.submitted:
            yield event.job, is_done or event.job.job_id in over


def jobs_of_all(runs: Iterable[RunFolder]) -> list[tuple[JobRef, bool]]:
    """As `jobs_of`, of several runs; those of a damaged file are left out."""
    jobs: list[tuple[JobRef, bool]] = []
    for run in runs:
        # What is wrong with one run does not hide the others; `status_or_reason` says what it is.
        with contextlib.suppress(Exception):
            jobs += jobs_of(run)
    return jobs


def _over(history: History) -> set[str]:
    """The jobs that ended by what the ledger says, and that have not been heard of for an hour
    since."""
    before = time.time() - _SETTLED_S
    attempts = {attempt.job_id: attempt for attempt in history.attempts}
    over = set()
    for job_id, event in history.last_of.items():
        says_so = isinstance(event, GivenUp) or (
            isinstance(event, Cancelled) and job_id in history.cancelled
        )
        heard = event.time
        # The newest attempt of a job decides.
        if (attempt := attempts.get(job_id)) is not None:
            says_so = attempt.cause in _ENDS and not history.was_requeued(attempt)
            heard = max(attempt.ended or attempt.started, heard)
        if says_so and heard < before:
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
    except (
        Exception
    ) as error:  # What is wrong with one cluster does not hide the runs of the others.
        return Survey({}, f"cluster '{name}' could not be asked: {type(error).__name__}: {error}")


@dataclass
class Ends:
    """Looks in a row at which everything seemed to be over (``seen``).

    Attributes:
        max_age_s: how old the next answer may be: what seems to be over is asked about now.
    """

    seen: int = 0
    max_age_s: float = TO_LOOK_S

    def look(self, is_over: bool, answers: Answers, *, is_sure: bool) -> None:
        """Another look.

        Args:
            is_sure: whether the files say so, or a launcher for good; else one that is away may
                only remember it.
        """
        if not is_over:
            self.seen = 0
        elif is_sure or answers.problem is None:
            self.seen += 1
        self.max_age_s = 0.0 if self.seen and answers.problem is None and not is_sure else TO_LOOK_S
