"""Asking the clusters about jobs of many runs at once, each cluster only about its own."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cldctl import clusters
from cldctl.clusters.base import SchedulerAway, Seen, Survey
from cldctl.jobs.evaluations import evaluations_of


@dataclass(frozen=True)
class Answers:
    """What the clusters said, by name of the cluster."""

    surveys: Mapping[str, Survey]

    def of(self, job: JobRef) -> Seen:
        survey = self.surveys.get(job.cluster)
        return Seen("unknown") if survey is None else survey.of(job)

    @property
    def problem(self) -> str | None:
        """One line on the clusters that could not be asked."""
        problems = dict.fromkeys(survey.problem for survey in self.surveys.values() if survey.problem)
        return "; ".join(problems) or None

    def is_stale(self, cluster: str | None) -> bool:
        """Whether this cluster could not be asked, so that states are those that the runs wrote themselves."""
        survey = self.surveys.get(cluster or "")
        return survey is not None and survey.problem is not None


def ask(jobs: Iterable[JobRef], settled: Iterable[JobRef] = (), *, max_age_s: float = 0.0) -> Answers:
    """Ask about jobs.

    Args:
        settled: further jobs, whose end is known: nobody waits for accounting because of them.
        max_age_s: an answer of this age, in seconds, is good enough.
    """
    open_jobs, known = _by_cluster(jobs), _by_cluster(settled)
    surveys = {}
    for name in [*open_jobs, *(name for name in known if name not in open_jobs)]:
        mine = known.get(name, [])
        surveys[name] = _survey(name, [*open_jobs.get(name, []), *mine], mine, max_age_s)
    return Answers(surveys)


def of_runs(runs: Iterable[RunFolder], *, max_age_s: float = 0.0) -> Answers:
    """Ask about all jobs of runs and of their evaluations."""
    jobs: list[JobRef] = []
    settled: list[JobRef] = []
    for run in runs:
        for job, is_settled in jobs_of(run):
            (settled if is_settled else jobs).append(job)
    return ask(jobs, settled, max_age_s=max_age_s)


def jobs_of(run: RunFolder) -> Iterator[tuple[JobRef, bool]]:
    """Every job of a run, training first, and whether it is known how it ended: the run or evaluation is finished."""
    if run.format_problem() is not None:
        return
    history = run.ledger.history()
    last = history.last
    finished_at = (last.ended or 0.0) if last is not None and last.cause == "finished" else 0.0
    for event in history.jobs:
        yield event.job, event.time < finished_at
    for work in evaluations_of(run):
        is_done = work.is_done
        for event in work.ledger.history().jobs:
            yield event.job, is_done


def _survey(name: str, jobs: Collection[JobRef], settled: Collection[JobRef], max_age_s: float) -> Survey:
    try:
        cluster = clusters.find(name)
    except UsageError:
        return Survey({}, f"cluster '{name}' is not known to this cldctl")
    try:
        return cluster.survey(jobs, settled=settled, max_age_s=max_age_s)
    except SchedulerAway as error:
        return Survey({}, str(error))


def _by_cluster(jobs: Iterable[JobRef]) -> dict[str, list[JobRef]]:
    grouped: dict[str, list[JobRef]] = {}
    for job in jobs:
        grouped.setdefault(job.cluster, []).append(job)
    return grouped
