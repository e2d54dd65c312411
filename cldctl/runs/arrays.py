"""Training several runs of a group by one submission: an array whose tasks are runs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cld_core.recipe import Recipe
from cld_core.run import RunFolder, code
from cld_core.run.events import JobRef, NotSubmitted, Submitted
from cld_core.run.groups import Group
from cld_core.shards import Work
from cldctl.clusters.base import Cluster, Task
from cldctl.clusters.records import JobSpec, SchedulerAway, SchedulerRefused
from cldctl.jobs import specs
from cldctl.jobs.train import TrainWork

from . import home, snapshot
from .requests import request


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run that is to train, for the first time or again.

    Attributes:
        evaluations: those that wait for its end.
        given: overrides of the command line of a new run; ``overrides``, of a continuation.
        code: what the request says about the code.
        is_new: whether the run was made for this submission.
    """

    run: RunFolder
    recipe: Recipe
    evaluations: tuple[Work, ...] = ()
    overrides: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    profile: str | None = None
    code: str | None = None
    is_new: bool = False


def spec_of(group: Group, starts: Sequence[Start], cluster: Cluster, parallel: int | None = None) -> JobSpec:
    """The job of an array. Without a queue, its tasks run one after another unless ``parallel`` says otherwise."""
    spec, _ = specs.trainings(
        group, [start.run for start in starts], starts[0].recipe, cluster, _at_once(cluster, parallel)
    )
    return spec


def of_one_size(starts: Sequence[Start]) -> list[list[Start]]:
    """Starts by what their jobs are: the tasks of an array are all of the same size, and import the same code."""
    arrays: dict[object, list[Start]] = {}
    for start in starts:
        arrays.setdefault((start.recipe.cluster, code.path_of(start.run.path)), []).append(start)
    return list(arrays.values())


def train(
    group: Group,
    starts: Sequence[Start],
    cluster: Cluster,
    parallel: int | None = None,
    started: Callable[[Sequence[JobRef]], None] = lambda jobs: None,
) -> list[JobRef]:
    """Start the training of several runs, whose jobs are of the same size; returns a job for each.

    Args:
        started: called as soon as the jobs exist, before a blocking cluster begins.

    Raises:
        CldError: others may write into the folder of the logs.
        RecipeError: the cluster has no such jobs, or not so many.
        SchedulerRefused, SchedulerAway: no job exists; the ledgers say so.
    """
    runs = [start.run for start in starts]
    spec, listed = specs.trainings(group, runs, starts[0].recipe, cluster, _at_once(cluster, parallel))
    cluster.check(spec, len(starts))
    specs.list_runs(listed, runs)
    jobs: list[JobRef] = []

    def note(refs: Sequence[JobRef]) -> None:
        for ref, run in zip(refs, runs, strict=True):
            run.ledger.append(Submitted(job=ref, exclude=spec.exclude))
            snapshot.drop_replaced(run)
        jobs.extend(refs)
        started(refs)

    with locked(runs, cluster):
        undo = [
            request(
                start.run,
                start.recipe,
                cluster,
                overrides=start.overrides,
                given=start.given,
                profile=start.profile,
                code_digest=start.code,
            )
            for start in starts
        ]
        try:
            cluster.submit(spec, [Task(work=TrainWork(str(run.path))) for run in runs], note)
        except (SchedulerRefused, SchedulerAway) as error:
            for run, put_back in zip(runs, undo, strict=True):
                away = isinstance(error, SchedulerAway)
                run.ledger.append(NotSubmitted(reason=str(error), away=away))
                put_back()
            raise
    assert jobs, f"cluster {cluster.name} did not report its jobs"
    return jobs


def _at_once(cluster: Cluster, parallel: int | None) -> int | None:
    return parallel if parallel is not None or cluster.queues else 1


@contextlib.contextmanager
def locked(runs: Sequence[RunFolder], cluster: Cluster) -> Iterator[None]:
    """Nobody else starts jobs of these runs meanwhile (`home.only_one`)."""
    with contextlib.ExitStack() as locks:
        for run in runs:
            locks.enter_context(home.only_one(run.path, cluster))
        yield
