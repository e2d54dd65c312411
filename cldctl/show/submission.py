"""Messages of commands that start works: a preview, what was started, and what came of it."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cld_core import metrics as registry
from cld_core.config import Recipe, dump
from cld_core.config.describe import from_base
from cld_core.errors import RecipeError
from cld_core.run import RunFolder
from cld_core.run.checkpoints import DamagedCheckpoint
from cld_core.run.evaluations import Evaluation, Sweep
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cld_core.run.work import Training, Work
from cldctl.clusters.base import After, Cluster, JobSpec
from cldctl.jobs import specs
from cldctl.lookup import called, find_profile
from cldctl.runs.options import SubmitOptions
from cldctl.runs.plan import missing, with_code
from cldctl.runs.selection import command
from cldctl.runs.snapshot import left_out_code
from cldctl.runs.start import OUTCOMES, PlannedWork, Started, following, without_jobs
from cldctl.runs.usage import TimeEstimate, estimate

from .console import duration, err, keys_differ, number, out, say_next, strong
from .tables import hours, state_text

if TYPE_CHECKING:
    from cldctl.runs.status import RunStatus

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
        CldError: the evaluation that is to follow lacks what it needs; raised last, so that it is
            below the preview.
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
    request = following(recipe, options.metrics)
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
    open_cells = [cell.name for cell in missing(options)]
    existing = {run.name for run in group.runs()}
    _show(f"# group: {group.name}, {len(cells)} runs in {group.root}")
    for cell in cells:
        if cell.name not in open_cells:
            state = "finished"
        else:
            state = "exists" if cell.name in existing else "new"
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


def _differences(file: Path, given: Sequence[str], profile: Path | None) -> None:
    """Print comments before the YAML: the differences to the recipe that ``file`` extends."""
    try:
        base, differences = from_base(file, given, profile)
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
    """Print what goes on after Ctrl-C, and what does not."""
    job = run.ledger.history().submitted[-1].job
    cancel = command(f"cancel {run.name}", run)
    err.print(
        f"interrupted; {run.name} is submitted as job {job.job_id} and goes on (`{cancel}` ends it)"
    )
    if (left := without_jobs(run)) is not None:
        err.print(left)


def say_estimate(options: SubmitOptions, start: Callable[[], float | None] | None) -> None:
    """Print how long a run will take, and when it begins, as far as this is known.

    Args:
        start: as in `preview`.
    """
    found = estimate(options.root, options.cells[0].recipe, without=options.run().name)
    err.print(estimate_line(found, None if start is None else start()))


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


def say_unwatched(place: RunFolder | Group | None) -> None:
    """Print that the jobs go on, and how to watch them again."""
    if place is None:
        err.print("\nno longer watching; the job goes on. Run the same command again to watch")
        return
    err.print("\nno longer watching; the jobs go on. Again:")
    err.print(f"  {command(f'status {place.name} --watch', place)}")


# --- what was started


def say_trainings(started: Started) -> None:
    """Print which runs were started, by which jobs, and the evaluations that follow."""
    place = started.place
    # On a terminal, the name of a run has just been printed.
    if started.group is not None or not (out.is_terminal and err.is_terminal and not err.quiet):
        out.print(place.name)
    if started.group is not None:
        counts = _counted(started.works)
        err.print(strong(f"{len(started.works)} runs of the group ", place.name, f": {counts}"))
    jobs = started.jobs
    if jobs and not started.blocks:
        first = next(planned for planned in started.works if planned.job is not None)
        if (line := left_out_code(first.run)) is not None:
            err.print(line, style="yellow")
        # Each task of an array has a job id of its own: ARRAY_TASK.
        ids = [job.job_id.partition("_")[0] if started.group else job.job_id for job in jobs]
        err.print(f"job {', '.join(dict.fromkeys(ids))} ({jobs[0].cluster})")
        evaluations = started.following
        if started.group is None:
            for work in evaluations:
                err.print(f"then evaluation {work.name}")
            for text in started.messages:
                err.print(text)
        elif evaluations:
            each = "each" if len(evaluations) == len(jobs) else len(evaluations)
            err.print(f"then an evaluation of {each}")
    say_errors(started.works)


def say_divided(started: Started) -> None:
    """Print which works of runs are complete, which are being computed, and by which job."""
    say_errors(started.works)
    by_run: dict[Path, list[PlannedWork]] = {}
    for planned in started.works:
        by_run.setdefault(planned.run.path, []).append(planned)
    for works in by_run.values():
        run = works[0].run
        called = works[0].work.called
        if len(works) > 1:
            err.print(strong(f"{len(works)} {called}s of ", run.name, f": {_counted(works)}"))
        elif works[0].outcome not in (None, "started"):
            err.print(
                f"{works[0].work.name} is already {works[0].outcome.removeprefix('already ')}"
            )
        jobs = [planned for planned in works if planned.job is not None]
        if not jobs or jobs[0].job is None:
            continue
        what = strong(f"{called} ", jobs[0].work.name)
        if started.sweep is not None:
            what = strong(f"{called} ", started.sweep.id)
        elif len(works) > 1:
            what = strong(f"{called}s")
        err.print(what, f"of {run.name}, job {jobs[0].job.job_id} ({jobs[0].job.cluster})")
    for text in started.messages:
        err.print(text)


def say_errors(works: Iterable[PlannedWork]) -> None:
    """Print which works could not be started, and why."""
    for planned in works:
        if planned.error is not None:
            err.failure(f"{planned.run.name}: {planned.error}", style="red")


def _counted(works: Iterable[PlannedWork]) -> str:
    """How often each outcome occurs, in the order of `OUTCOMES`: "2 new, 1 resumed"."""
    counts = Counter(planned.outcome or "not started" for planned in works)
    return ", ".join(f"{counts[word]} {word}" for word in OUTCOMES if counts[word])


def say_next_of_trainings(started: Started) -> None:
    """Print what to type while trainings go on."""
    place = started.place
    if started.group is None:
        then = f"logs {place.name} -f"
    elif any(planned.run.evaluation_names() for planned in started.works):
        then = f"compare {place.name}"
    else:
        then = f"eval {place.name} --elbo"
    say_next(place, f"status {place.name}", then, f"cancel {place.name}")


def say_next_of_evaluations(started: Started) -> None:
    """Print the names of evaluations that are not followed, and what to type next."""
    place = started.place
    if started.group is not None:
        out.print(place.name)
        say_next(place, f"status {place.name}", f"compare {place.name}")
        return
    names = [planned.work.name for planned in started.works]
    out.print("\n".join(names) if started.sweep is None else started.sweep.id)
    (alive, *_) = started.those("started") or started.those("being computed")
    say_next(place, f"status {place.name}", f"logs {place.name} --eval {alive.name} -f")


# --- how it ended


def say_end_of_run(run: RunFolder, row: "RunStatus", works: Sequence[Work]) -> int:
    """Print how a training ended, and the results of the evaluations that have followed it.

    Returns:
        1 if an evaluation is not complete.
    """
    saved = "" if row.checkpoint_step is None else f", checkpoint of step {row.checkpoint_step}"
    say = err.print if row.state == "FINISHED" else err.failure
    say(state_text(row.state), f"at step {row.step} of {row.steps}{saved}")
    if row.reason:
        say(row.reason)
    if row.state != "FINISHED":
        say_next(run, f"why {run.name}", f"logs {run.name}", f"resume {run.name}")
        return 0
    code = say_results(works)
    say_next(
        run, f"sample {run.name}", f"report {run.name}" if works else f"eval {run.name} --elbo"
    )
    return code


def say_end_of_evaluations(started: Started, *, waited: bool) -> int:
    """Print the results of evaluations, or of those that are not complete what to type next.

    Args:
        waited: whether the command has waited for them.

    Returns:
        The exit code.
    """
    works = [planned.work for planned in started.works]
    group = started.group
    if group is not None and waited:
        code = say_end_of_group(group, works)
        if code == 0:
            say_next(group, f"compare {group.name}")
        return code or started.exit_code
    if group is not None or not (waited or started.is_over):
        say_next_of_evaluations(started)
        return started.exit_code
    code = say_results(works, started.sweep)
    if code == 0:
        run = started.works[0].run
        say_next(run, f"report {run.name}", f"status {run.name}")
    return code


def say_end_of_group(group: Group, works: Iterable[Work]) -> int:
    """Print a group, and which evaluations of its runs are not complete; return the exit code."""
    from cldctl.runs.follow import look_at

    from .runs import group_details

    rows = look_at([Training(run.path) for run in group.runs()]).rows
    out.print(group_details(group.name, rows))
    return say_incomplete(work for work in works if not work.is_done)


def say_next_of_group(
    group: Group, rows: "Sequence[RunStatus]", code: int, *, evaluated: bool
) -> None:
    """Print what to type after a group has ended with an exit code."""
    if code == 0:
        say_next(group, f"compare {group.name}" if evaluated else f"eval {group.name} --elbo")
        return
    failed = [f"why {row.name}" for row in rows if row.state not in ("FINISHED", "CANCELLED")]
    say_next(group, *failed[:1], f"resume {group.name}")


def say_results(works: Sequence[Work], sweep: Sweep | None = None) -> int:
    """Print the results of evaluations; return the exit code, 1 if one is not complete."""
    from cldctl.evals.results import rows as sweep_rows

    from .evaluations import by_step, evaluations, remarks, say_files, statuses_of, sweep_table

    chosen = [work for work in works if isinstance(work, Evaluation)]
    rows = statuses_of(chosen)
    missing = [work for work, row in zip(chosen, rows, strict=True) if row["state"] != "FINISHED"]
    if sweep is not None:
        run = chosen[0].run
        out.print(sweep_table(sweep, sweep_rows(run, sweep), {row["id"]: row for row in rows}))
        if not missing:
            say_files(run, sweep)
    elif rows:
        out.print(evaluations(rows))
        for table in by_step(rows):
            out.print(table)
    for line in remarks(rows):
        err.print(line)
    return say_incomplete(missing)


def say_incomplete(works: Iterable[Work]) -> int:
    """Print which evaluations are not complete, and where to see why; return the exit code."""
    code = 0
    for work in works:
        if work.run is not None:
            err.failure(f"evaluation {work.name} of {work.run.name} is not complete; see")
            err.failure(f"  {command(f'logs {work.run.name} --eval {work.name}', work.run)}")
            code = 1
    return code
