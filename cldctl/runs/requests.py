"""What goes with the job of a training: the request before it, and the evaluations that wait for its end."""

import os
import socket
from collections.abc import Callable, Sequence

from cld_core.evaluation.evaluation import evaluations_of
from cld_core.recipe import Recipe
from cld_core.run import RunFolder, code
from cld_core.run.events import JobRef, Requested
from cld_core.shards import Work
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import After, SchedulerAway, SchedulerRefused
from cldctl.hints import command
from cldctl.jobs import hooks

from . import sharded, snapshot


def request(
    run: RunFolder,
    recipe: Recipe,
    cluster: Cluster,
    *,
    overrides: Sequence[str] = (),
    given: Sequence[str] = (),
    profile: str | None = None,
    from_step: int | None = None,
    code_digest: str | None = None,
) -> Callable[[], None]:
    """Note that the run is to be trained, before there is a job; its jobs may call the hook of ``recipe``.

    Returns:
        What puts back the code and the hook that the run had, for when there is no job after all.
    """
    hook = hooks.settings(run)
    hooks.allow(run, recipe)
    run.ledger.append(
        Requested(
            steps=recipe.train.steps,
            overrides=tuple(overrides),
            given=tuple(given),
            profile=profile,
            code=code_digest,
            from_step=from_step,
            host=socket.gethostname(),
            pid=os.getpid(),
            cluster=cluster.name,
        )
    )

    def undo() -> None:
        snapshot.put_back(run)
        hooks.put_back(run, hook)

    return undo


def follow_up(
    run: RunFolder,
    recipe: Recipe,
    cluster: Cluster,
    evaluations: Sequence[Work],
    training: JobRef,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Start the evaluations that wait for a training to end; on a cluster that blocks, it has ended.

    Args:
        say: told how shards share tasks, if they do.

    Raises:
        SchedulerRefused, SchedulerAway: they were not started; the training goes on.
    """
    if not evaluations or (cluster.blocks and not is_finished(run)):
        return
    after, stored = After((training,)), code.path_of(run.path)
    try:
        sharded.start(evaluations, cluster, recipe.cluster, run=run, after=after, code=stored, say=say)
    except (SchedulerRefused, SchedulerAway) as error:
        text = f"{run.name} trains as job {training.job_id}, but {without_jobs(run)}"
        raise type(error)(f"{text}. The reason: {error}") from error


def without_jobs(run: RunFolder) -> str | None:
    """Which evaluations of a run have not been submitted, and what to do about it; None if all have."""
    works = [work for work in evaluations_of(run) if not work.is_done and not work.ledger.history().submitted]
    if not works:
        return None
    flags = dict.fromkeys(f"--{metric}" for work in works for metric in work.request.metrics)
    again = command(f"eval {run.name} {' '.join(flags)}", run)
    names = ", ".join(work.name for work in works)
    return f"its evaluation {names} was not submitted: when the training is finished, `{again}`"


def is_finished(run: RunFolder) -> bool:
    """Whether the newest attempt did all steps that it was asked for."""
    last = run.ledger.history().last
    return last is not None and last.cause == "finished"
