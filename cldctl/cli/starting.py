"""Starting evaluations of a run: the common parts of commands that evaluate."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cld_core.run import RunFolder
from cld_core.run.trust import require_own_plugin
from cldctl.show.console import err, strong

from .options import named_as_typed

if TYPE_CHECKING:
    from cld_core.recipe.cluster import ClusterSpec
    from cldctl.clusters.base import Cluster
    from cldctl.evals.plan import EvaluationPlan
    from cldctl.runs.evaluate import Outcome


def place(
    run: RunFolder, cluster: str | None, overrides: Sequence[str], allow_plugin: bool
) -> "tuple[Cluster, ClusterSpec]":
    """Where evaluations of a run are computed, and the jobs that a training with these settings would get.

    Raises:
        UsageError: the plug-in of the run may not be run, or an override is wrong.
    """
    from cldctl.evals.plan import recipe_for_evaluation
    from cldctl.runs import home

    where = home.chosen(cluster, run)
    recipe = run.recipe()
    if not allow_plugin:
        require_own_plugin(run, recipe, of_metrics=True)
    with named_as_typed({}, run):
        return where, recipe_for_evaluation(recipe, overrides, str(run.recipe_file)).cluster


def steps_of(run: RunFolder, checkpoint: str, doing: str = "evaluating") -> list[int]:
    """The steps that ``--checkpoint`` means; damaged checkpoints that are skipped are named on stderr.

    Raises:
        NotFoundError, CheckpointError: as `plan.checkpoints`.
    """
    from cldctl.evals import plan

    steps, damaged = plan.checkpoints(run, checkpoint)
    for entry in damaged:
        err.print(entry.skipped, markup=False, style="yellow")
    if damaged:
        err.print(f"{doing} step {', '.join(map(str, steps))} of {run.name}")
    return steps


def say_division(run: RunFolder, made: "EvaluationPlan", shards: int | None) -> None:
    """Say which evaluations have another number of shards than ``--shards`` asks for."""
    from cldctl.runs.evaluate import divided_otherwise, fewer_shards

    if shards is None:
        return
    if (fewer := fewer_shards(made.requests, shards)) is not None:
        err.print(f"--shards {shards}: {fewer} shards instead, one for each sample or test point")
    for other, pieces in divided_otherwise(run, made.requests):
        err.print(f"{other} was begun in {pieces} shards and keeps them")


def started(
    run: RunFolder, made: "EvaluationPlan", where: "Cluster", size: "ClusterSpec", parallel: int | None
) -> "Outcome":
    """Start the missing evaluations of a plan, and say so."""
    from cldctl.runs import home
    from cldctl.runs.evaluate import start

    with home.only_one(run.path, where):
        outcome = start(run, made, where, size, parallel)
    say_outcome(run, made, outcome, where)
    return outcome


def say_outcome(run: RunFolder, made: "EvaluationPlan", outcome: "Outcome", where: "Cluster") -> None:
    """Say which evaluations of a plan are complete, which are being computed, and by which job."""
    many = len(made.requests) > 1
    if many:
        groups = {"already complete": outcome.complete, "being computed": outcome.running, "started": outcome.started}
        counts = ", ".join(f"{len(names)} {words}" for words, names in groups.items() if names)
        err.print(strong(f"{len(made.requests)} evaluations of ", run.name, f": {counts}"))
    for name in () if many else outcome.complete:
        err.print(f"{name} is already complete")
    for name in () if many else outcome.running:
        err.print(f"{name} is already being computed")
    if outcome.job is not None:
        which = made.sweep.id if made.sweep is not None else outcome.started[0]
        several = many and made.sweep is None
        what = ("evaluations",) if several else ("evaluation ", which)
        err.print(strong(*what), f"of {run.name}, job {outcome.job.job_id} ({where.name})")
    for text in outcome.said:
        err.print(text, markup=False)


def say_where(run: RunFolder, made: "EvaluationPlan", outcome: "Outcome") -> None:
    """Print the names of evaluations that are not waited for, and what to type next."""
    from cldctl.hints import command
    from cldctl.show.console import out

    names = [request.id for request in made.requests]
    out.print(made.sweep.id if made.sweep is not None else "\n".join(names), markup=False)
    log = command(f"logs {run.name} --eval {(outcome.started or outcome.running)[0]} -f", run)
    err.print(f"next:\n  {command(f'status {run.name}', run)}\n  {log}", markup=False)
