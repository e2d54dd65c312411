"""Messages of commands that start work: a preview, what was started, and what to type next."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
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
from cld_core.run.tunings import Tuning
from cldctl import clusters
from cldctl.clusters.base import After, Cluster, JobSpec
from cldctl.evals.samplers import Comparison
from cldctl.jobs import specs
from cldctl.lookup import called, find_profile
from cldctl.runs.evaluate import STATES, Planned
from cldctl.runs.options import SubmitOptions
from cldctl.runs.resume import Continuation, resume
from cldctl.runs.selection import command
from cldctl.runs.snapshot import left_out_code
from cldctl.runs.submit import create_and_start, following, missing, with_code
from cldctl.runs.training import FOUND, Begun, Skipped, without_jobs
from cldctl.runs.usage import estimate

from .console import Working, err, keys_differ, out, say_next, strong
from .evaluations import show_samplers, show_tunings
from .follow import (
    follow_evaluations,
    follow_group_evaluations,
    follow_runs,
    follow_works_of,
    place_of,
)
from .tables import estimate_line


def preview(options: SubmitOptions, cluster: Cluster, spec: JobSpec) -> None:
    """Print what a submission would start: recipe and batch script of a run, or runs of a sweep.

    Raises:
        CldError: the evaluation that is to follow lacks what it needs; raised last, so that it is
            below the preview.
    """
    spec = with_code(spec, options, cluster)
    _differences(options.file, options.given, find_profile(options.profile))
    if options.group is not None:
        _preview_group(options, options.group, cluster, spec)
        return
    start = _ask_for_start(cluster, spec)
    _preview_run(options, cluster, spec)
    _say_estimate(options, start())


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
    evaluation = specs.sharded(
        [run.evals / request.id], recipe.cluster, cluster, run=run, after=after
    )
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


def started(run: RunFolder) -> None:
    """Print that a run has a job."""
    err.print(strong("run ", run.name, f" in {run.path}"))


def continues(
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


def submit_runs(wanted: SubmitOptions, cluster: Cluster, spec: JobSpec, follow: bool) -> int:
    """Submit a run, or the missing runs of a sweep; return the exit code.

    On Ctrl-C, it prints what goes on.
    """
    # The scheduler estimates the start while the job is being written.
    start = _ask_for_start(cluster, spec) if wanted.group is None else lambda: None
    try:
        begun = create_and_start(wanted, cluster, continues, started)
    except KeyboardInterrupt:
        run = wanted.run()
        if wanted.group is not None or cluster.blocks or not run.exists:
            raise
        if not run.ledger.history().submitted:
            raise
        _interrupted(run)
        return 130
    if wanted.group is None and not cluster.blocks:
        _say_estimate(wanted, start())
    return finish(begun, follow)


def resume_runs(
    which: RunFolder | Group, wanted: Continuation, cluster: str | None, follow: bool
) -> int:
    """Continue a run, or those of a group; return the exit code."""
    if isinstance(which, Group):
        where = clusters.chosen(cluster, which.runs()[-1])
        return finish(resume(which, wanted, where, continues, started), follow)
    where = clusters.chosen(cluster, which)
    # A submission that blocks contains the training, which prints its own output.
    with nullcontext() if where.blocks else Working(f"checking the checkpoints of {which.name}"):
        begun = resume(which, wanted, where, continues)
    return finish(begun, follow)


def finish(begun: Begun, follow: bool) -> int:
    """Print what was started and what to type next, or follow it; return the exit code."""
    group = begun.group
    evaluations = begun.evaluations
    place = begun.runs[0] if group is None else place_of(group)
    # On a terminal, the name of a run has just been printed.
    if group is not None or not (out.is_terminal and err.is_terminal and not err.quiet):
        out.print(place.name)
    if group is not None:
        left = ["not started" for entry in begun.skipped if entry.run.name not in begun.jobs]
        counts = _counted([*begun.found.values(), *left], (*FOUND, "not started"))
        err.print(strong(f"{len(begun.runs)} runs of the group ", group.name, f": {counts}"))
    if begun.jobs and not begun.cluster.blocks:
        _say_jobs(begun)
    code = _say_skipped(begun.skipped)
    if follow or begun.cluster.blocks:
        return follow_runs(begun.runs, evaluations, group) or code
    if group is None:
        then = f"logs {place.name} -f"
    elif any(evaluations.values()) or any(run.evaluation_names() for run in begun.runs):
        then = f"compare {place.name}"
    else:
        then = f"eval {place.name} --elbo"
    say_next(place, f"status {place.name}", then, f"cancel {place.name}")
    return code


def _say_jobs(begun: Begun) -> None:
    """Print the jobs, what is left out of their code, and the evaluations that follow."""
    first = next(run for run in begun.runs if run.name in begun.jobs)
    if (line := left_out_code(first)) is not None:
        remark(line)
    ids = [job.job_id for job in begun.jobs.values()]
    if begun.group is not None:
        # Each task of an array has a job id of its own: ARRAY_TASK.
        ids = [job_id.partition("_")[0] for job_id in ids]
    err.print(f"job {', '.join(dict.fromkeys(ids))} ({begun.cluster.name})")
    if begun.group is None:
        for name in begun.evaluations[first.name]:
            err.print(f"then evaluation {name}")
        for text in begun.said:
            err.print(text)
    elif chained := sum(map(len, begun.evaluations.values())):
        err.print(f"then an evaluation of {'each' if chained == len(begun.jobs) else chained}")


def _counted(found: Iterable[str], words: Sequence[str]) -> str:
    """How often each word occurs, in the order of ``words``: "2 new, 1 resumed"."""
    counts = Counter(found)
    return ", ".join(f"{counts[word]} {word}" for word in words if counts[word])


def _say_skipped(skipped: Sequence[Skipped]) -> int:
    """Print which runs could not be started, and why; return the exit code."""
    for entry in skipped:
        err.failure(f"{entry.run.name}: {entry.reason}", style="red")
    return max((entry.exit_code for entry in skipped), default=0)


def _interrupted(run: RunFolder) -> None:
    """Print what goes on after Ctrl-C, and what does not."""
    job = run.ledger.history().submitted[-1].job
    cancel = command(f"cancel {run.name}", run)
    err.print(
        f"interrupted; {run.name} is submitted as job {job.job_id} and goes on (`{cancel}` ends it)"
    )
    if (missing := without_jobs(run)) is not None:
        err.print(missing)


def _ask_for_start(cluster: Cluster, spec: JobSpec) -> Callable[[], float | None]:
    """As `Cluster.ask_for_start`, but the start of a job that waits for another one is unknown."""
    return cluster.ask_for_start(spec) if spec.after is None else lambda: None


def _say_estimate(options: SubmitOptions, start: float | None) -> None:
    """Print how long a run will take, and when it begins, as far as this is known."""
    found = estimate(options.root, options.cells[0].recipe, without=options.run().name)
    err.print(estimate_line(found, start))


def say_outcome(planned: Planned) -> None:
    """Print which evaluations are complete, which are being computed, and by which job."""
    run = planned.run
    works = planned.works
    if len(works) > 1:
        counts = _counted(planned.found.values(), STATES)
        err.print(strong(f"{len(works)} evaluations of ", run.name, f": {counts}"))
    else:
        say_already(planned)
    if planned.job is not None:
        if planned.sweep is not None:
            what = strong("evaluation ", planned.sweep.id)
        elif len(works) > 1:
            what = strong("evaluations")
        else:
            what = strong("evaluation ", planned.those("started")[0])
        err.print(what, f"of {run.name}, job {planned.job.job_id} ({planned.cluster.name})")
    for text in planned.said:
        err.print(text)


def say_already(planned: Planned) -> None:
    """Print which works need not be started."""
    for name, state in planned.found.items():
        if state != "started":
            err.print(f"{name} is already {state.removeprefix('already ')}")


def say_where(planned: Planned) -> None:
    """Print the names of evaluations that are not followed, and what to type next."""
    run = planned.run
    out.print("\n".join(planned.names) if planned.sweep is None else planned.sweep.id)
    (alive, *_) = planned.those("started") or planned.those("being computed")
    say_next(run, f"status {run.name}", f"logs {run.name} --eval {alive} -f")


def finish_evaluations(planned: Planned, follow: bool) -> int:
    """As `finish`, for evaluations of a run."""
    say_outcome(planned)
    if planned.is_over or follow or planned.cluster.blocks:
        works = [Evaluation(work.folder) for work in planned.works]
        return follow_evaluations(planned.run, works, planned.sweep)
    say_where(planned)
    return 0


def finish_group_evaluations(
    group: Group, begun: Iterable[Planned], skipped: Sequence[Skipped], follow: bool
) -> int:
    """As `finish`, for evaluations of the runs of a group."""
    code = _say_skipped(skipped)
    works: list[Evaluation] = []
    for planned in begun:
        say_outcome(planned)
        works += (Evaluation(work.folder) for work in planned.works)
        follow |= planned.cluster.blocks
    if not (works and follow):
        out.print(group.name)
        say_next(place_of(group), f"status {group.name}", f"compare {group.name}")
        return code
    code = follow_group_evaluations(group, group.runs(), works) or code
    if code == 0:
        say_next(place_of(group), f"compare {group.name}")
    return code


def finish_samplers(
    made: Comparison,
    planned: Planned,
    as_json: bool,
    csv: Path | None,
    plot: Path | None,
    follow: bool,
) -> int:
    """As `finish`, for a comparison of samplers."""
    say_outcome(planned)
    stays = follow or planned.cluster.blocks or planned.is_over
    if not stays and not as_json:
        say_where(planned)
        return 0
    works = [Evaluation(work.folder) for work in planned.works]
    if stays and not all(work.is_done for work in works):
        follow_works_of(planned.run, works, made.sweep.id)
    return show_samplers(works, made, as_json, csv, plot, waited=stays)


def finish_tunings(planned: Planned, as_json: bool, follow: bool) -> int:
    """As `finish`, for tunings."""
    run = planned.run
    works = [Tuning(work.folder) for work in planned.works]
    say_already(planned)
    if planned.job is not None:
        text = f"of {run.name}, job {planned.job.job_id} ({planned.cluster.name})"
        err.print(strong("tuning ", ", ".join(planned.those("started"))), text)
    stays = follow or planned.cluster.blocks
    if stays and not planned.is_over:
        follow_works_of(run, works, f"tuning of {run.name}")
    return show_tunings(run, works, as_json, stays)
