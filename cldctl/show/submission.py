"""Messages of commands that start works: a preview, what was started, and what came of it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cld_core import metrics as registry
from cld_core.config import Recipe, dump
from cld_core.config.describe import from_base
from cld_core.errors import RecipeError
from cld_core.run import RunFolder
from cld_core.run.checkpoints import DamagedCheckpoint
from cld_core.run.evaluations import Evaluation
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cldctl.clusters.base import After, Cluster, JobSpec
from cldctl.jobs import specs
from cldctl.lookup import called, find_profile
from cldctl.runs.options import SubmitOptions, existing
from cldctl.runs.plan import TimeEstimate, estimate, missing, with_code
from cldctl.runs.selection import command
from cldctl.runs.start import request_after, without_jobs

from .console import duration, err, hours, keys_differ, number, out, strong

# A job that starts within so many seconds "begins at once".
AT_ONCE_S = 5.0


def preview(
    options: SubmitOptions,
    cluster: Cluster,
    spec: JobSpec,
    start: Callable[[], float | None] | None,
) -> None:
    """Print what a submission would start: recipe and batch script of a run, or runs of a sweep.

    Args:
        start: waits for the time at which a job would begin, see `Cluster.ask_for_start`; None if
            it is unknown.

    Raises:
        CldError: the chained evaluation lacks a setting; raised last, so that the message is below
            the preview.
    """
    spec = with_code(spec, options, cluster)
    _differences(options.file, options.given, find_profile(options.profile))
    if options.group is not None:
        _preview_group(options, options.group, cluster, spec)
        return
    _preview_run(options, cluster, spec)
    say_estimate(options, start)


def _preview_run(options: SubmitOptions, cluster: Cluster, spec: JobSpec) -> None:
    run = options.run()
    recipe = options.cells[0].recipe
    _show(f"# run: {run.path}\n{dump(recipe)}")
    _show(cluster.script(spec))
    request = request_after(recipe, options.metrics)
    if request is None:
        return
    counts = dict.fromkeys(
        f"{size:,} {registry.ROWS[kind].over}" for kind, size in request.sizes.items()
    )
    shards = f"{request.shards} shard{'' if request.shards == 1 else 's'}"
    _show(f"# evaluation {request.id}: {' and '.join(counts)} in {shards}, after the training")
    after = After((JobRef(cluster=cluster.name, job_id="JOB_OF_THE_TRAINING"),))
    work = Evaluation(run.evals / request.id, request)
    evaluation = specs.of_works([work], recipe.cluster, cluster, after=after)
    _show(cluster.script(evaluation, request.shards))


def _preview_group(options: SubmitOptions, group: Group, cluster: Cluster, spec: JobSpec) -> None:
    cells = options.cells
    existing_runs = existing(options)
    open_cells = [cell.name for cell in missing(options, existing_runs)]
    _show(f"# group: {group.name}, {len(cells)} runs in {group.root}")
    for cell in cells:
        if cell.name not in open_cells:
            state = "finished"
        else:
            state = "exists" if cell.name in existing_runs else "new"
        values = " ".join(f"{key}={value}" for key, value in cell.values.items())
        _show(f"#   {cell.name}  {values}  {state}")
    _show(f"# the recipe of {cells[0].name}\n{dump(cells[0].recipe)}")
    if open_cells:
        tasks = 1 if cluster.blocks else len(open_cells)
        most = cluster.array_size()
        if most is not None and tasks > most:
            _show(f"# {-(-tasks // most)} arrays of at most {most} tasks; the first of them:")
            tasks = most
        _show(cluster.script(spec, tasks))
    if options.metrics:
        _show(f"# an evaluation ({', '.join(options.metrics)}) of each run, after its training")


def _differences(file: Path, overrides: Sequence[str], profile: Path | None) -> None:
    """Print comments before the YAML: the differences to the recipe that ``file`` extends."""
    try:
        base, differences = from_base(file, overrides, profile)
    except RecipeError:
        return  # The recipe is complete only with the values of a sweep.
    if base is None:
        return
    if differences:
        out.print(f"# {keys_differ(len(differences))} from {called(base)}:")
    else:
        out.print(f"# same as {called(base)}")
    for key, text in differences.items():
        out.print(f"#   {key}: {text}")


def _show(text: str) -> None:
    out.print(text, no_wrap=True)


def remark(text: str) -> None:
    """Print a warning."""
    err.print(text, style="yellow")


def say_submitted(run: RunFolder) -> None:
    """Print that a run has a job."""
    err.print(strong("run ", run.name, f" in {run.path}"))


def say_continues(
    run: RunFolder,
    recipe: Recipe,
    start: int,
    damaged: Sequence[DamagedCheckpoint],
    warnings: Sequence[str],
) -> None:
    """Print the step from which a run continues, with warnings."""
    for entry in damaged:
        remark(entry.skipped)
    for text in warnings:
        remark(text)
    err.print(strong("resuming ", run.name, f" from step {start} of {recipe.train.steps}"))


def say_interrupted(run: RunFolder) -> None:
    """Print which jobs continue after Ctrl-C, and what was not submitted."""
    job = run.ledger.history().submitted[-1].job
    cancel = command(f"cancel {run.name}", run)
    err.print(
        f"interrupted; {run.name} is submitted as job {job.job_id} and continues "
        f"(`{cancel}` ends it)"
    )
    if (left := without_jobs(run)) is not None:
        err.print(left)


def say_estimate(options: SubmitOptions, start: Callable[[], float | None] | None) -> None:
    """Print how long a run will take, and when it begins, as far as this is known.

    Args:
        start: waits for the time at which a job would begin, see `Cluster.ask_for_start`; None if
            it is unknown.
    """
    time_estimate = estimate(options.root, options.cells[0].recipe, without=options.run().name)
    err.print(estimate_line(time_estimate, None if start is None else start()))


def estimate_line(estimate: TimeEstimate | None, start: float | None) -> str:
    """How long a training will take, and when it begins, in one line.

    Args:
        estimate: None without a run that it can be estimated from.
        start: when the job is expected to begin, seconds since 1970; None if that is unknown.
    """
    if estimate is None:
        cost = "no comparable run yet"
    else:
        others = f" and {len(estimate.runs) - 1} more" if len(estimate.runs) > 1 else ""
        cost = (
            f"{duration(estimate.seconds)} of training, {hours(estimate.hours)} {estimate.unit}, "
            f"at {number(estimate.rate, 3)} steps/s as in {estimate.runs[0]}{others}"
        )
    if start is None:
        return f"estimate: {cost}"
    wait = start - time.time()
    if wait < AT_ONCE_S:
        return f"estimate: {cost}; begins at once"
    return (
        f"estimate: {cost}; begins in {duration(wait)}, as the scheduler expects, or earlier if "
        "other jobs end before their limits"
    )
