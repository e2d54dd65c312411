"""Continuing runs from their newest good checkpoints."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.config import Recipe, with_overrides
from cld_core.config.data import StoredDataSpec
from cld_core.config.loader import anchored_overrides
from cld_core.data import store
from cld_core.errors import CldError, NotFoundError, RecipeError, UsageError
from cld_core.ownership import require_may_change
from cld_core.plugins import import_plugins, is_shipped
from cld_core.run import RunFolder, code
from cld_core.run import recipe as frozen
from cld_core.run.checkpoints import DamagedCheckpoint, newest_good
from cld_core.run.events import Requested
from cld_core.run.groups import Group
from cld_core.run.identity import IMAGES, are_other_data
from cld_core.run.lease import held_message, newest, seems_alive
from cld_core.run.recipe import require_own_plugin, trusted_recipe
from cld_core.run.state import OVER, RESUMABLE
from cld_core.run.work import Training
from cldctl.clusters.base import Cluster
from cldctl.jobs import specs

from . import snapshot, survey
from .index import Index, concurrent_map
from .options import require_inputs, require_native
from .selection import command
from .start import PlannedTraining, PlannedWork
from .status import RunStatus, status_of, status_or_reason
from .survey import Answers

# Called before a run continues, with the run, its recipe, the step that it continues from, newer
# checkpoints that are damaged, and warnings.
OnContinue = Callable[[RunFolder, Recipe, int, Sequence[DamagedCheckpoint], Sequence[str]], None]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """How a run is to continue.

    Attributes:
        overrides: the overrides from ``profile``, and after them those of the command line.
        from_step: the step of the checkpoint to continue from; None for the newest.
        allow_plugin: whether plug-ins and hooks of a run that others can write to may run.
        update_code: whether the run's code is replaced by that of the checkout.
        other_data: whether it may train on other data than it has so far.
        max_age_s: the greatest age of an answer that says that the run is not alive, seconds, so
            that one poll is enough for many runs.
    """

    overrides: tuple[str, ...] = ()
    from_step: int | None = None
    profile: str | None = None
    allow_plugin: bool = False
    update_code: bool = False
    other_data: bool = False
    max_age_s: float = 0.0


def resumable(root: Path) -> tuple[list[RunFolder], list[CldError]]:
    """The runs under ``root`` to resume, and why others are skipped.

    A `UsageError` among these is not a failure of the command.
    """
    runs = Index(root).unfinished()
    # All of them are polled, because each continuation needs the answers.
    answers = survey.of_runs(runs)
    rows = concurrent_map(lambda run: status_or_reason(run, answers), runs)
    chosen: list[RunFolder] = []
    skipped: list[CldError] = []
    for row in sorted(rows, key=lambda row: (row.created or 0.0, row.name)):
        run = RunFolder(row.path)
        if not row.is_readable:
            skipped.append(UsageError(f"{run.name}: {row.reason}"))
        elif row.state != "FINISHED":
            try:
                _require_answers(run, answers)
                if row.state in RESUMABLE:
                    require_may_change(run.path, "It was not resumed")
                    chosen.append(run)
            except CldError as error:
                skipped.append(error)
    return chosen, skipped


def _require_answers(run: RunFolder, answers: Answers) -> None:
    training = survey.jobs_of(run, works=())
    answers.require_about(training, f"Whether {run.name} is alive is unknown")


def of_run(
    run: RunFolder, continuation: Continuation, cluster: Cluster, about: OnContinue
) -> Iterator[PlannedTraining]:
    """The continuation of a run.

    Args:
        about: called before a run continues.

    Raises:
        CldError: the run belongs to another user, or its recipe names a plug-in that is not
            allowed.
        SchedulerAway: the cluster that would know whether the run is alive does not answer.
        UsageError: it is alive, is finished, or the overrides do not allow it to continue.
        NotFoundError: it has no checkpoint of ``from_step``.
        RecipeError: its data are missing, or others than it has trained on.
    """
    answers = survey.fresh_answers(run, continuation.max_age_s)
    yield _ready(run, continuation, cluster, about, answers)


def of_group(
    group: Group,
    runs: Iterable[RunFolder],
    continuation: Continuation,
    cluster: Cluster,
    about: OnContinue,
) -> Iterator[PlannedWork]:
    """The continuations of runs of a group that neither train nor are finished.

    Finished runs continue if ``train.steps`` is raised. The others have their outcome, or the error
    that `of_run` would raise.

    Raises:
        UsageError, SchedulerAway: a cluster that would know which of them are alive cannot be
            asked.
    """
    runs = list(runs)
    jobs = survey.jobs_of_all(runs)
    answers = survey.ask_about(jobs)
    unknown = f"Which runs of {group.name} are alive is unknown, and nothing was started"
    answers.require_about(jobs, unknown)
    has_more_steps = any(text.startswith("train.steps=") for text in continuation.overrides)
    for run in runs:
        row = status_or_reason(run, answers)
        planned = PlannedWork(work=Training(run.path))
        if not row.is_readable:
            planned.error = CldError(str(row.reason))
            yield planned
            continue
        history = run.ledger.history()
        # The lock of the group is held, so that no other command is still making the run.
        is_abandoned = not (history.request or history.submitted or history.attempts)
        if row.state == "FINISHED" and not has_more_steps:
            planned.outcome = "finished already"
        elif row.state not in {*RESUMABLE, "FINISHED"} and not is_abandoned:
            planned.outcome = "running already"
        else:
            try:
                planned = _ready(
                    run, continuation, cluster, about, answers, is_abandoned=is_abandoned
                )
            except CldError as error:
                planned.error = error
        yield planned


def _ready(
    run: RunFolder,
    continuation: Continuation,
    cluster: Cluster,
    about: OnContinue,
    answers: Answers,
    *,
    is_abandoned: bool = False,
) -> PlannedTraining:
    """Check a run that is to continue.

    Args:
        answers: what the clusters say about the run's jobs.
        is_abandoned: whether the command that made the run is known to have ended before it
            requested a job.

    Raises:
        CldError: the run belongs to another user, or its recipe names a plug-in that is not
            allowed.
        SchedulerAway: the cluster that would know whether the run is alive does not answer.
        UsageError: the run is alive, is finished, or the overrides do not allow it to continue.
        NotFoundError: the run has no checkpoint of ``from_step``.
        RecipeError: its data are missing, or others than it has trained on.
    """
    require_may_change(run.path, "It was not resumed")
    status = _status_of_dead(run, answers, is_abandoned)
    before = trusted_recipe(run, allow_plugin=continuation.allow_plugin)
    recipe = with_overrides(before, continuation.overrides, str(run.recipe_file))
    overrides = tuple(anchored_overrides(continuation.overrides, recipe, Path.cwd()))
    recipe = recipe.anchored(Path.cwd())
    if not continuation.allow_plugin:
        _require_own(run, recipe, before)
    if recipe.model_digest() != before.model_digest():
        culprits = [text for text in overrides if _makes_another(before, text)]
        raise RecipeError(
            f"{run.name}: {' '.join(culprits or overrides)} would make it another run: its "
            f"checkpoints depend on data, sde, network, the objective's score and the optimiser. "
            f"Submit a new run instead."
        )
    warnings: list[str] = []
    require_inputs(recipe, warnings.append)
    require_native(recipe, cluster, warnings.append)
    step, damaged = _first_step(run, recipe, status, continuation.from_step)
    # Before anything is noted.
    cluster.check(specs.of_works([Training(run.path)], recipe.cluster, cluster))
    of_data = _check_data(
        run, recipe, update=continuation.update_code, allowed=continuation.other_data
    )
    warnings = [*of_data, *warnings]
    edited = frozen.note(run)
    if edited is not None:
        warnings.insert(0, edited)
    about(run, recipe, step, damaged, tuple(warnings))
    request = Requested(
        steps=recipe.train.steps,
        overrides=overrides,
        profile=continuation.profile,
        from_step=continuation.from_step,
    )
    return PlannedTraining(
        work=Training(run.path),
        recipe=recipe,
        request=request,
        update_code=continuation.update_code,
    )


def _require_own(run: RunFolder, recipe: Recipe, before: Recipe) -> None:
    """Refuse hooks and loggers of a recipe that others can write, unless they are typed now."""
    same_hook = recipe.hooks.on_change == before.hooks.on_change
    same_address = recipe.monitor.mlflow.tracking_uri == before.monitor.mlflow.tracking_uri
    if same_hook or same_address:
        require_own_plugin(run, recipe, of_hooks=same_hook, of_loggers=same_address)


def _status_of_dead(run: RunFolder, answers: Answers, is_abandoned: bool) -> RunStatus:
    """The status of a run that is not alive.

    Raises:
        UsageError: the run is alive.
        SchedulerAway: the cluster that would know does not answer.
    """
    status = status_of(run, answers)
    if status.state != "FINISHED":
        _require_answers(run, answers)
    if status.state not in OVER and not is_abandoned:
        how = ""
        if status.job_id:
            how = f" as job {status.job_id}"
        elif status.reason:
            how = f" ({status.reason})"
        raise UsageError(
            f"{run.name} is {status.state.lower()}{how}. "
            f"Wait for it, or end it first with `{command(f'cancel {run.name}', run)}`."
        )
    if seems_alive(run.leases):
        raise UsageError(held_message(run.path, newest(run.leases)[1] or {}))
    return status


def _first_step(
    run: RunFolder, recipe: Recipe, status: RunStatus, from_step: int | None
) -> tuple[int, list[DamagedCheckpoint]]:
    """The step from which a run continues, and the checkpoints that are skipped for it."""
    steps = recipe.train.steps
    start = from_step
    reached = status.step if status.state == "FINISHED" and from_step is None else 0
    more = command(f"resume {run.name} train.steps=...", run)
    if steps == reached:
        raise UsageError(
            f"{run.name} is finished at step {reached}. To continue, ask for more: `{more}`."
        )
    if from_step is not None and from_step not in (saved := run.steps_to_continue_from()):
        existing = ", ".join(map(str, saved)) or "none"
        raise NotFoundError(
            f"{run.name} has no checkpoint of step {from_step}. It has: {existing}."
        )
    skipped: list[DamagedCheckpoint] = []
    if from_step is None and reached < steps:
        start, damaged = newest_good(run)
        skipped = [entry for entry in damaged if entry.finished]
    if (most := max(reached, start or 0)) > steps:
        raise UsageError(
            f"{run.name} is already at step {most}, beyond train.steps={steps}. "
            f"To continue, ask for more: `{more}`."
        )
    return start or 0, skipped


def _makes_another(recipe: Recipe, override: str) -> bool:
    try:
        return with_overrides(recipe, [override]).model_digest() != recipe.model_digest()
    except RecipeError:
        return True


def _check_data(
    run: RunFolder, recipe: Recipe, *, update: bool = False, allowed: bool = False
) -> list[str]:
    """Refuse to continue on other data, before anything is noted.

    Args:
        recipe: the recipe to continue with, in which the run's own plug-ins are its copies.
        update: the run gets the plug-ins as they are now in place of its copies.
        allowed: other data are allowed.

    Returns:
        Warnings, a line each.

    Raises:
        RecipeError: the run has trained on other data, or a plug-in cannot be imported.
    """
    fix = f"`cldctl resume {run.name} --update-code` takes the new one"
    warnings = [] if update else list(snapshot.changed_plugins(run, recipe.plugins, fix))
    identity_now, called = _data_of(run, recipe, update)
    if not are_other_data(identity_now, run.ledger.history().data):
        return warnings
    if not allowed:
        raise RecipeError(
            f"{called} are not those that {run.name} has trained on so far. "
            f"Put back what it was or submit a new run; to train on nevertheless, add --other-data."
        )
    return [
        *warnings,
        f"{called} are not those that {run.name} has trained on so far: "
        f"from now on it trains on other data",
    ]


def _data_of(run: RunFolder, recipe: Recipe, update: bool) -> tuple[Mapping[str, str], str]:
    """What identifies the data, and what messages call them; empty if they cannot have changed.

    The data of a plug-in are identified by examples of them, which loads torch. The run's own copy
    of a plug-in has not changed.
    """
    data = recipe.data
    if isinstance(data, StoredDataSpec):
        return {IMAGES: store.of(data).split("train").digest}, f"the examples in {data.path}"
    if is_shipped("data", data.name):
        return {}, ""
    if not update and set(recipe.plugins) <= code.copies_in(code.folder_of(run.path)).keys():
        return {}, ""
    from cld_core.data.source import identity

    files = [file for file, _ in snapshot.plugin_files(run, recipe.plugins, renew=update)]
    import_plugins(files, "--update-code" if update else "command line")
    return identity(data, files), f"the data of {data.name}, as {', '.join(files)} makes them,"
