"""`cldctl submit`, `resume` and `cancel`: how trainings begin, continue and end."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer import Argument, Option

from cld_core.errors import CldError, NotFoundError, UsageError
from cldctl.show.console import Working, err

from . import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cld_core.run import RunFolder
    from cld_core.run.groups import Group
    from cldctl.runs.cancel import Ending
    from cldctl.runs.resume import Continuation


def submit(
    recipe: str = options.RECIPE,
    overrides: list[str] | None = options.OVERRIDES,
    name: str | None = options.NEW_NAME,
    cluster: str | None = options.CLUSTER,
    profile: str | None = options.PROFILE,
    follow: bool = options.FOLLOW,
    dry_run: bool = Option(False, help="Show the recipe and the job, write nothing."),
    metrics: list[str] | None = Option(
        None, "--eval", metavar="fid,elbo", help="Evaluate when the training is finished."
    ),
    tags: list[str] | None = Option(
        None, "--tag", metavar="TAG", help="A word to find the run by; may be repeated."
    ),
    note: str | None = Option(None, metavar="TEXT", help="What the run is for."),
    live_code: bool = Option(False, help="Run the checkout as it is when each job starts."),
    sweep: list[str] | None = Option(
        None, metavar="KEY=a,b,c", help="A run for each combination of values; once for each key."
    ),
    parallel: int | None = Option(None, min=1, help="With --sweep: runs that may train at once."),
    after: str | None = Option(
        None,
        metavar="JOBID[:ok|any]",
        help="Start when this job has succeeded (ok, the default) or ended (any).",
    ),
    weights: str | None = Option(
        None,
        "--from",
        metavar="RUN[@STEP] | FILE.safetensors",
        help="Start from the averaged weights of another run, or of an exported file.",
    ),
    partial: bool = Option(False, help="With --from: start tensors that do not fit from scratch."),
    root: Path = options.RUNS_DIR,
) -> None:
    """Train a recipe.

    Example: cldctl submit toy train.steps=20000 --follow --eval elbo

    Example: cldctl submit toy data.name=checkerboard --from toy-0102-101112-ab12

    Example: cldctl submit toy --sweep train.seed=0,1,2 --sweep optim.lr=1e-4,2e-4 --parallel 4
    """
    from cldctl import clusters
    from cldctl.runs import plan
    from cldctl.runs.options import SubmitOptions
    from cldctl.runs.start import start
    from cldctl.show import submission as messages

    from .finish import finish_trainings

    where = clusters.chosen(cluster, is_preview=dry_run)
    submit_options = SubmitOptions(
        recipe=recipe,
        root=root,
        name=name,
        given=tuple(overrides or ()),
        profile=clusters.default_profile(where) if profile is None else profile,
        sweep=tuple(sweep or ()),
        parallel=parallel,
        chained=tuple(metrics or ()),
        tags=tuple(tags or ()),
        note=note,
        live_code=live_code,
        after=after,
        weights=weights,
        partial=partial,
    )
    members = [] if submit_options.group is None else submit_options.group.runs()
    if members:
        where = clusters.chosen(cluster, members[0], is_preview=dry_run)
    elif dry_run and cluster is None:
        where = clusters.described(submit_options.cells[0].recipe.cluster)
    with err.status("checking the recipe"):
        spec = plan.check(submit_options, where, messages.remark, is_preview=dry_run)
    # The scheduler estimates the start of a run while the job is being written.
    ask_for_start = None
    if submit_options.group is None and spec.after is None:
        ask_for_start = where.ask_for_start(spec)
    if dry_run:
        if (reason := where.unavailable()) is not None:
            messages.remark(
                f"{reason}: this is what --cluster {where.name} submits where there is one. "
                f"The default on this machine is --cluster {clusters.default().name}."
            )
        messages.preview(submit_options, where, spec, ask_for_start)
        return
    works = plan.trainings(submit_options, where, messages.say_continues)
    try:
        submission = start(
            works,
            where,
            submit_options.group,
            after=spec.after,
            parallel=submit_options.parallel,
            notify=messages.say_submitted,
        )
    except KeyboardInterrupt:
        run = submit_options.run()
        if submit_options.group is not None or where.blocks or not run.ledger.history().submitted:
            raise
        messages.say_interrupted(run)
        raise typer.Exit(130) from None
    if submit_options.group is None and not where.blocks:
        messages.say_estimate(submit_options, ask_for_start)
    raise typer.Exit(finish_trainings(submission, follow))


def resume(
    words: list[str] | None = Argument(
        None,
        metavar="RUN | GROUP | KEY=VALUE",
        help="Runs or a group (default: all that can be resumed), and recipe keys to change.",
    ),
    from_step: int | None = Option(
        None, "--from", metavar="STEP", help="Continue from this checkpoint."
    ),
    cluster: str | None = options.CLUSTER_OF_RUN,
    follow: bool = options.FOLLOW,
    yes: bool = options.YES,
    allow_plugin: bool = options.ALLOW_PLUGIN,
    profile: str | None = options.PROFILE_OF_RUN,
    update_code: bool = Option(
        False, help="Run the code of the checkout from now on, not the run's own."
    ),
    other_data: bool = Option(False, help="Continue although the data have changed."),
    root: Path = options.RUNS_DIR,
) -> None:
    """Continue runs that are stopped, failed, cancelled or lost, or finished with more train.steps.

    Without RUN: every run that can be continued and is not alive. A group: all of its runs that are
    neither alive nor finished, by one job.

    Example: cldctl resume toy-0102-101112-ab12 train.steps=40000 --follow
    """
    from cld_core.run.groups import Group
    from cldctl.runs import survey
    from cldctl.runs.options import with_profile
    from cldctl.runs.resume import Continuation
    from cldctl.runs.status import message_of

    names, overrides = options.split_runs(words)
    chosen = options.find_all(names, root)
    continuation = Continuation(
        overrides=with_profile(profile, overrides),
        from_step=from_step,
        profile=profile,
        allow_plugin=allow_plugin,
        update_code=update_code,
        other_data=other_data,
    )
    if len(chosen) == 1:
        if from_step is not None and isinstance(chosen[0], Group):
            raise UsageError("--from goes with one run, not with a group. Name a run.")
        raise typer.Exit(_continue(chosen[0], continuation, cluster, follow))
    code = 0
    if chosen:
        runs = options.runs_of(chosen)
        _require_one(runs, follow, from_step)
        # One poll of the cluster is about all runs.
        survey.of_runs(runs)
    else:
        runs, code = _choose_resumable(root, yes)
        _require_one(runs, follow, from_step)
    continuation = replace(continuation, max_age_s=survey.TO_LOOK_S)
    for run in runs:
        try:
            code = _continue(run, continuation, cluster, follow) or code
        except Exception as error:  # An error of one run must not keep the others from resuming.
            err.failure(f"{run.name}: {message_of(error)}", style="red")
            code = getattr(error, "exit_code", 1)
    raise typer.Exit(code)


def _require_one(runs: "Sequence[RunFolder]", follow: bool, from_step: int | None) -> None:
    """Raises UsageError: an option that goes with one run was given for several."""
    if len(runs) > 1 and (follow or from_step is not None):
        raise UsageError(f"--follow and --from go with one run, not with {len(runs)}. Name one.")


def _continue(
    place: "RunFolder | Group", continuation: "Continuation", cluster: str | None, follow: bool
) -> int:
    """Continue a run, or those of a group; return the exit code."""
    from cld_core.run.groups import Group
    from cldctl import clusters
    from cldctl.runs import resume as policy
    from cldctl.runs.start import start
    from cldctl.show import submission as messages

    from .finish import finish_trainings

    about = messages.say_continues
    if isinstance(place, Group):
        runs = place.runs()
        where = clusters.chosen(cluster, runs[-1])
        works = policy.of_group(place, runs, continuation, where, about)
        submission = start(works, where, place, notify=messages.say_submitted)
        return finish_trainings(submission, follow)
    where = clusters.chosen(cluster, place)
    continued = policy.of_run(place, continuation, where, about)
    # A submission that blocks contains the training, which prints its own output.
    with nullcontext() if where.blocks else Working(f"checking the checkpoints of {place.name}"):
        submission = start(continued, where, place)
    return finish_trainings(submission, follow)


def _choose_resumable(root: Path, yes: bool) -> "tuple[list[RunFolder], int]":
    """Ask whether to resume all runs that can be resumed.

    Returns:
        These runs, and the largest exit code of skipped runs; unreadable runs do not count.

    Raises:
        NotFoundError: no run can be resumed.
        typer.Exit: no run can be resumed, and some were skipped.
    """
    from cldctl.runs.resume import resumable

    runs, skipped = resumable(root)
    code = 0
    for error in skipped:
        err.print(f"skipped: {error}", style="yellow")
        # A run that cannot be read is a `UsageError` here (see `resumable`).
        if not isinstance(error, UsageError):
            code = max(code, error.exit_code)
    if not runs and code:
        raise typer.Exit(code)
    if not runs:
        raise NotFoundError(
            f"{root.absolute()}: no run can be resumed. `cldctl status` shows their states."
        )
    err.print("can be resumed: " + ", ".join(run.name for run in runs))
    options.agree("Resume all of them?", "resume without RUN", yes, "Add --yes, or name a run.")
    return runs, code


def cancel(
    names: list[str] = options.RUNS,
    evaluation: str | None = Option(
        None,
        "--eval",
        metavar="ID",
        help="Only this evaluation, tuning or sweep of the run; the beginning of its id will do.",
    ),
    root: Path = options.RUNS_DIR,
) -> None:
    """End runs and their evaluations; a run saves a checkpoint first.

    Example: cldctl cancel toy-0102-101112-ab12

    Example: cldctl cancel toy-0102-101112-ab12 --eval elbo
    """
    from cldctl.jobs import hooks
    from cldctl.runs import cancel as policy

    try:
        runs = options.runs_of(options.find_all(names, root))
        works = [] if evaluation is None else policy.named_works(runs, evaluation)
    except CldError as error:
        raise type(error)(f"{error} Nothing was cancelled.") from error
    endings = policy.cancel(runs, works)
    for ending in endings:
        if ending.problem is not None:
            err.failure(f"{ending.run.name}: {ending.problem}", style="red")
        elif not ending.jobs:
            err.print(policy.outcome(ending))
    waiting = [ending for ending in endings if ending.jobs]

    def over(ending: "Ending") -> None:
        err.print(policy.outcome(ending))
        working.at(sum(entry.is_over for entry in waiting), len(waiting), "runs")
        if ending.is_over and ending.trains:
            hooks.fire(ending.run, "--over")

    try:
        if waiting:
            with Working(policy.waits_for(waiting), announced=True) as working:
                policy.wait(waiting, over)
    except KeyboardInterrupt:
        left = ", ".join(ending.run.name for ending in waiting if not ending.is_over)
        err.print(f"no longer waiting for {left}: `cldctl status` shows how they end")
        raise typer.Exit(130) from None
    if problems := [ending.problem for ending in endings if ending.problem is not None]:
        raise typer.Exit(problems[0].exit_code)
