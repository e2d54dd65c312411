"""Continuing runs from their newest good checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.checkpoint.verify import DamagedCheckpoint, newest_whole
from cld_core.errors import NotFoundError, RecipeError, UsageError
from cld_core.recipe import Recipe
from cld_core.run import RunFolder, find_runs
from cld_core.run.events import JobRef
from cld_core.run.lease import held_message, newest, seems_alive
from cld_core.shards import Work
from cldctl.clusters.base import Cluster, SchedulerAway
from cldctl.hints import command
from cldctl.jobs.evaluations import chained

from . import survey
from .state import OVER, RESUMABLE
from .status import RunStatus, status_of, status_or_reason
from .submit import Begun, require_inputs, train


def resumable(root: Path) -> list[RunFolder]:
    """The runs under ``root`` that can be resumed and are not alive.

    Raises:
        SchedulerAway: a cluster that would know which runs are alive does not answer.
        NotFoundError: there are none.
    """
    runs = find_runs(root)
    answers = survey.of_runs(runs)
    if answers.problem is not None:
        raise SchedulerAway(f"{answers.problem}. Which runs are alive is unknown; try again later.")
    chosen = [run for run in runs if status_or_reason(run, answers).state in RESUMABLE and not run.format_problem()]
    if not chosen:
        raise NotFoundError(f"{root.absolute()}: no run can be resumed. `cldctl status` shows their states.")
    return chosen


@dataclass(frozen=True)
class Continuation:
    """How a run is to continue.

    Attributes:
        start: the step of the checkpoint that it continues from.
        skipped: newer checkpoints that are damaged.
        evaluations: those that wait for its end.
    """

    run: RunFolder
    recipe: Recipe
    overrides: tuple[str, ...]
    cluster: Cluster
    start: int
    from_step: int | None
    skipped: tuple[DamagedCheckpoint, ...]
    evaluations: tuple[Work, ...]

    def submit(self, started: Callable[[JobRef], None]) -> Begun:
        """Start it; see `submit.train`."""
        job = train(
            self.run,
            self.recipe,
            self.cluster,
            self.evaluations,
            overrides=self.overrides,
            from_step=self.from_step,
            started=started,
        )
        return Begun(self.run, job, self.cluster, tuple(work.folder.name for work in self.evaluations))


def plan(run: RunFolder, overrides: Sequence[str], from_step: int | None, cluster: Cluster) -> Continuation:
    """How a run is to continue with these overrides.

    Raises:
        SchedulerAway: the cluster that would know whether the run is alive does not answer.
        UsageError: it is alive, is finished, or the overrides do not allow it to continue.
        NotFoundError: it has no checkpoint of ``from_step``.
        DataError: its data are missing.
    """
    from cld_core.recipe import anchored_overrides, with_overrides
    from cld_core.recipe.plugin import with_plugin_found

    status = _status_of_dead(run)
    before = run.recipe()
    recipe = with_overrides(before, overrides, str(run.recipe_file))
    overrides = anchored_overrides(overrides, recipe, Path.cwd())
    recipe = with_plugin_found(recipe.anchored(Path.cwd()), run.recipe_file)
    if recipe.model_digest() != before.model_digest():
        which = " ".join(text for text in overrides if _makes_another(before, text)) or " ".join(overrides)
        text = "its checkpoints depend on data, sde, network, the objective's score and the optimiser"
        raise RecipeError(f"{run.name}: {which} would make it another run: {text}. Submit a new run instead.")
    require_inputs(recipe)
    start, skipped = _start(run, recipe, status, from_step)
    return Continuation(
        run=run,
        recipe=recipe,
        overrides=tuple(overrides),
        cluster=cluster,
        start=start,
        from_step=from_step,
        skipped=skipped,
        evaluations=tuple(chained(run, recipe)),
    )


def _status_of_dead(run: RunFolder) -> RunStatus:
    """The status of a run that is not alive.

    Raises:
        UsageError: it is.
        SchedulerAway: the cluster that would know does not answer.
    """
    answers = survey.of_runs([run])
    status = status_of(run, answers)
    if answers.problem is not None and status.state != "FINISHED":
        raise SchedulerAway(f"{answers.problem}. Whether {run.name} is alive is unknown; try again later.")
    if status.state not in OVER:
        text = f"is {status.state.lower()} as job {status.job_id}"
        cancel = command(f"cancel {run.name}", run)
        raise UsageError(f"{run.name} {text}. Wait for it, or end it first with `{cancel}`.")
    if seems_alive(run.leases):
        raise UsageError(held_message(run.path, newest(run.leases)[1] or {}))
    return status


def _start(
    run: RunFolder, recipe: Recipe, status: RunStatus, from_step: int | None
) -> tuple[int, tuple[DamagedCheckpoint, ...]]:
    """The step from which a run continues, and the checkpoints that are skipped for it."""
    more = f"To continue, ask for more: `{command(f'resume {run.name} train.steps=...', run)}`"
    steps = run.checkpoint_steps()
    if status.state == "FINISHED" and recipe.train.steps <= status.step and from_step is None:
        raise UsageError(f"{run.name} is finished at step {status.step}. {more}.")
    if from_step is not None and from_step not in steps:
        existing = ", ".join(map(str, steps)) or "none"
        raise NotFoundError(f"{run.name} has no checkpoint of step {from_step}. It has: {existing}.")
    skipped: tuple[DamagedCheckpoint, ...] = ()
    start = from_step
    if start is None:
        start, damaged = newest_whole(run)
        skipped = tuple(entry for entry in damaged if entry.finished)
    if recipe.train.steps < (start or 0):
        raise UsageError(f"{run.name} is already at step {start}, beyond train.steps={recipe.train.steps}. {more}.")
    return start or 0, skipped


def _makes_another(recipe: Recipe, override: str) -> bool:
    from cld_core.recipe import with_overrides

    try:
        return with_overrides(recipe, [override]).model_digest() != recipe.model_digest()
    except RecipeError:
        return True
