"""Which logs of a run there are to look at, and which of them is opened first."""

from dataclasses import dataclass

from cld_core.errors import CldError, NotFoundError
from cld_core.evaluation.evaluation import evaluations_of
from cld_core.run import RunFolder
from cld_core.run.causes import fate_of
from cldctl.runs.failing import failed_log
from cldctl.runs.logs import Log, of_evaluation, of_training


@dataclass(frozen=True)
class Source:
    """A log, and what it is called; ``attempt`` and ``evaluation`` say where it is from, if anything.

    Attributes:
        is_failed: it is the log of the rank that failed first.
    """

    log: Log
    title: str
    attempt: int | None = None
    evaluation: str | None = None
    is_failed: bool = False


def first_source(run: RunFolder) -> Source:
    """The rank that failed first if the last attempt failed and no later job waits; else the newest job's rank 0.

    Raises:
        CldError: there is no log.
    """
    history = run.ledger.history()
    last = history.last
    if last is not None and fate_of(last.cause) == "crashes" and history.requeued is None:
        newest = history.jobs[-1].job.job_id if history.jobs else last.job_id
        if newest == last.job_id:
            return failed_source(run, last.attempt)
    return newest_source(run)


def failed_source(run: RunFolder, attempt: int | None = None) -> Source:
    """The rank that failed first, by default in the last attempt that failed.

    Raises:
        NotFoundError: nothing failed.
    """
    log, what = failed_log(run, attempt)
    number = what.partition(",")[0].removeprefix("attempt ")
    return Source(log, f"{what}: failed first", int(number) if number.isdecimal() else None, is_failed=True)


def newest_source(run: RunFolder, rank: int = 0) -> Source:
    """A rank of the newest job.

    Raises:
        NotFoundError: the run was never submitted.
    """
    log = of_training(run, None, rank)
    return Source(log, f"job {log.job.job_id}, rank {rank}")


def attempt_source(run: RunFolder, attempt: int, rank: int = 0) -> Source:
    """A rank of one attempt.

    Raises:
        NotFoundError: there is no such attempt, or it has no log.
    """
    return Source(of_training(run, attempt, rank), f"attempt {attempt}, rank {rank}", attempt)


def other_attempt(run: RunFolder, source: Source, step: int) -> Source:
    """The attempt before (-1) or after (+1) the one that is shown; beyond the last one, the newest job.

    Raises:
        NotFoundError: there is none.
    """
    numbers = [it.attempt for it in run.ledger.history().attempts if it.job_id is not None]
    if not numbers:
        raise NotFoundError(f"{run.name} has no attempts yet.")
    # The newest job stands behind the last attempt.
    place = numbers.index(source.attempt) if source.attempt in numbers else len(numbers)
    place = min(place + step, len(numbers))
    if place < 0:
        raise NotFoundError(f"there is no attempt before {numbers[0]}.")
    return newest_source(run) if place >= len(numbers) else attempt_source(run, numbers[place])


def other_rank(run: RunFolder, source: Source, step: int) -> Source:
    """The next rank of the same job that has a log, round and round.

    Raises:
        NotFoundError: there is only one.
    """
    ranks = [int(rank) for rank in source.log.ranks()]
    if len(ranks) < 2:
        raise NotFoundError("there is only one rank.")
    here = ranks.index(source.log.rank) if source.log.rank in ranks else -1
    rank = ranks[(here + step) % len(ranks)]
    if source.evaluation is not None:
        return Source(
            of_evaluation(run, source.evaluation, None, rank),
            f"evaluation {source.evaluation}, process {rank}",
            evaluation=source.evaluation,
        )
    return newest_source(run, rank) if source.attempt is None else attempt_source(run, source.attempt, rank)


def next_evaluation(run: RunFolder, source: Source) -> Source:
    """The newest evaluation that was started, then those before it, then the training again.

    Raises:
        NotFoundError: none was started.
    """
    names = [work.name for work in reversed(evaluations_of(run)) if work.ledger.history().jobs]
    if not names:
        raise NotFoundError(f"no evaluation of {run.name} was started.")
    place = names.index(source.evaluation) + 1 if source.evaluation in names else 0
    if place >= len(names):
        return newest_source(run)
    try:
        return Source(of_evaluation(run, names[place], None, 0), f"evaluation {names[place]}", evaluation=names[place])
    except CldError:
        # Its log is elsewhere, as of a run that was copied.
        return newest_source(run)
