"""What people are shown of runs that begin or continue: what would be submitted, what was, and what
to type next."""

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
from cldctl.runs.submit import following, missing, submit, with_code
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
    """Show a new run, or a sweep of new runs.

    Raises:
        CldError: the evaluation that is to follow lacks what it needs; said last, where it is seen.
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
    run, recipe = options.run(), options.cells[0].recipe
    _show(f"# run: {run.path}\n{dump(recipe)}")
    _show(cluster.script(spec))
    if (request := following(recipe, options.metrics)) is None:
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
        state = (
            "finished"
            if cell.name not in open_cells
            else "exists"
            if cell.name in existing
            else "new"
        )
        _show(
            f"#   {cell.name}  {' '.join(f'{key}={value}' for key, value in cell.values.items())}  "
            f"{state}"
        )
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
    """Comments before the YAML: what differs from the recipe that ``file`` extends, and what has
    set it."""
    try:
        base, found = from_base(file, given, profile)
    except RecipeError:
        return  # The recipe is complete only with the values of a sweep.
    if base is None:
        return
    out.print(
        f"# {keys_differ(len(found))} from {called(base)}:"
        if found
        else f"# same as {called(base)}"
    )
    for key, text in found.items():
        out.print(f"#   {key}: {text}")


def _show(text: str) -> None:
    out.print(text, no_wrap=True)


def remark(text: str) -> None:
    """Say what people should know."""
    err.print(text, style="yellow")


def started(run: RunFolder) -> None:
    """Say that a run has a job."""
    err.print(strong("run ", run.name, f" in {run.path}"))


def continues(
    run: RunFolder,
    recipe: Recipe,
    start: int,
    damaged: Sequence[DamagedCheckpoint],
    warnings: Sequence[str],
) -> None:
    """Say from where a run continues, with remarks about that."""
    for text in (*(entry.skipped for entry in damaged), *warnings):
        remark(text)
    err.print(strong("resuming ", run.name, f" from step {start} of {recipe.train.steps}"))


def submit_runs(wanted: SubmitOptions, cluster: Cluster, spec: JobSpec, follow: bool) -> int:
    """Submit a run, or those of a sweep that are missing; returns the exit code. Ctrl-C says what
    goes on."""
    # The scheduler thinks about it while the job is being written.
    start = _ask_for_start(cluster, spec) if wanted.group is None else lambda: None
    try:
        begun = submit(wanted, cluster, continues, started)
    except KeyboardInterrupt:
        run = wanted.run()
        if (
            wanted.group is not None
            or cluster.blocks
            or not (run.exists and run.ledger.history().submitted)
        ):
            raise
        _interrupted(run)
        return 130
    if wanted.group is None and not cluster.blocks:
        _say_estimate(wanted, start())
    return finish(begun, follow)


def resume_runs(
    which: RunFolder | Group, wanted: Continuation, cluster: str | None, follow: bool
) -> int:
    """Continue a run, or those of a group; returns the exit code."""
    if isinstance(which, Group):
        where = clusters.chosen(cluster, which.runs()[-1])
        return finish(resume(which, wanted, where, continues, started), follow)
    where = clusters.chosen(cluster, which)
    # Where a submission blocks, the training is in it, and has its own output.
    with nullcontext() if where.blocks else Working(f"checking the checkpoints of {which.name}"):
        begun = resume(which, wanted, where, continues)
    return finish(begun, follow)


def finish(begun: Begun, follow: bool) -> int:
    """Print what was started and what to type next; stay with it if asked to. Returns the exit
    code."""
    group, cluster, evaluations = begun.group, begun.cluster, begun.evaluations
    place = begun.runs[0] if group is None else place_of(group)
    # On a terminal, the name of a run has just been said.
    if group is not None or not (out.is_terminal and err.is_terminal and not err.quiet):
        out.print(place.name)
    if group is not None:
        left = ["not started" for entry in begun.skipped if entry.run.name not in begun.jobs]
        counts = _counted([*begun.found.values(), *left], (*FOUND, "not started"))
        err.print(strong(f"{len(begun.runs)} runs of the group ", group.name, f": {counts}"))
    if begun.jobs and not cluster.blocks:
        if (
            line := left_out_code(next(run for run in begun.runs if run.name in begun.jobs))
        ) is not None:
            remark(line)
        ids = [
            job.job_id if group is None else job.job_id.partition("_")[0]
            for job in begun.jobs.values()
        ]
        err.print(f"job {', '.join(dict.fromkeys(ids))} ({cluster.name})")
        if group is None:
            for text in (
                *(f"then evaluation {name}" for name in evaluations[place.name]),
                *begun.said,
            ):
                err.print(text)
        elif chained := sum(map(len, evaluations.values())):
            err.print(f"then an evaluation of {'each' if chained == len(begun.jobs) else chained}")
    code = _say_skipped(begun.skipped)
    if follow or cluster.blocks:
        return follow_runs(begun.runs, evaluations, group) or code
    more = f"logs {place.name} -f"
    if group is not None:
        is_evaluated = any(evaluations.values()) or any(
            run.evaluation_names() for run in begun.runs
        )
        more = f"compare {place.name}" if is_evaluated else f"eval {place.name} --elbo"
    say_next(place, f"status {place.name}", more, f"cancel {place.name}")
    return code


def _counted(found: Iterable[str], words: Sequence[str]) -> str:
    """How many there are of each of these words, in their order: "2 new, 1 resumed"."""
    counts = Counter(found)
    return ", ".join(f"{counts[word]} {word}" for word in words if counts[word])


def _say_skipped(skipped: Sequence[Skipped]) -> int:
    """Say which runs could not be started; returns the exit code."""
    for entry in skipped:
        err.failure(f"{entry.run.name}: {entry.reason}", style="red")
    return max((entry.exit_code for entry in skipped), default=0)


def _interrupted(run: RunFolder) -> None:
    """Say what goes on after Ctrl-C, and what does not."""
    submitted = run.ledger.history().submitted[-1]
    goes_on = f"{run.name} is submitted as job {submitted.job.job_id} and goes on"
    err.print(f"interrupted; {goes_on} (`{command(f'cancel {run.name}', run)}` ends it)")
    if (missing := without_jobs(run)) is not None:
        err.print(missing)


def _ask_for_start(cluster: Cluster, spec: JobSpec) -> Callable[[], float | None]:
    """As `Cluster.ask_for_start`; nobody knows when a job begins that waits for another one."""
    return cluster.ask_for_start(spec) if spec.after is None else lambda: None


def _say_estimate(options: SubmitOptions, start: float | None) -> None:
    """Say how long a run will take, and when it begins, as far as this is known."""
    found = estimate(options.root, options.cells[0].recipe, without=options.run().name)
    err.print(estimate_line(found, start))


def say_outcome(planned: Planned) -> None:
    """Say which evaluations are complete, which are being computed, and by which job."""
    run, works, sweep = planned.run, planned.works, planned.sweep
    many = len(works) > 1
    if many:
        counts = _counted(planned.found.values(), STATES)
        err.print(strong(f"{len(works)} evaluations of ", run.name, f": {counts}"))
    else:
        say_already(planned)
    if planned.job is not None:
        which = sweep.id if sweep is not None else planned.those("started")[0]
        what = ("evaluations",) if many and sweep is None else ("evaluation ", which)
        err.print(
            strong(*what), f"of {run.name}, job {planned.job.job_id} ({planned.cluster.name})"
        )
    for text in planned.said:
        err.print(text)


def say_already(planned: Planned) -> None:
    """Say what need not be started."""
    for name, state in planned.found.items():
        if state != "started":
            err.print(f"{name} is already {state.removeprefix('already ')}")


def say_where(planned: Planned) -> None:
    """Print the names of evaluations that are not waited for, and what to type next."""
    run, sweep = planned.run, planned.sweep
    out.print(sweep.id if sweep is not None else "\n".join(planned.names))
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
    place, compared = place_of(group), f"compare {group.name}"
    if not (works and follow):
        out.print(group.name)
        say_next(place, f"status {group.name}", compared)
        return code
    code = follow_group_evaluations(group, group.runs(), works) or code
    if code == 0:
        say_next(place, compared)
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
    run, works = planned.run, [Tuning(work.folder) for work in planned.works]
    say_already(planned)
    if planned.job is not None:
        text = f"of {run.name}, job {planned.job.job_id} ({planned.cluster.name})"
        err.print(strong("tuning ", ", ".join(planned.those("started"))), text)
    stays = follow or planned.cluster.blocks
    if stays and not planned.is_over:
        follow_works_of(run, works, f"tuning of {run.name}")
    return show_tunings(run, works, as_json, stays)
