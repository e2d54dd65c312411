"""What people are shown of runs that begin or continue: what would be submitted, what was, and what to type next."""

from collections.abc import Sequence
from pathlib import Path

from cld_core.checkpoint.verify import DamagedCheckpoint
from cld_core.errors import RecipeError
from cld_core.evaluation import registry
from cld_core.recipe import Recipe, dump
from cld_core.recipe.differences import from_base
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.tuned.request import TuneRequest
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import After, JobSpec
from cldctl.evals.plan import EvaluationPlan
from cldctl.hints import command
from cldctl.jobs import specs
from cldctl.lookup import called, find_profile
from cldctl.runs.estimate import estimate
from cldctl.runs.evaluate import Outcome
from cldctl.runs.groups import BegunGroup, missing
from cldctl.runs.options import SubmitOptions
from cldctl.runs.snapshot import left_out_code
from cldctl.runs.submit import Begun, following
from cldctl.runs.training import without_jobs

from .console import err, out, say_next, shows_bars, strong
from .follow import follow_group, follow_run
from .format import keys_differ
from .progress import Working
from .usage import estimate_line


def preview(options: SubmitOptions, cluster: Cluster, spec: JobSpec) -> None:
    """Show a new run.

    Raises:
        CldError: the evaluation that is to follow lacks what it needs; said last, where it is seen.
    """
    run, recipe = RunFolder(options.path), options.recipe
    _differences(options.file, options.given, find_profile(options.profile))
    _show(f"# run: {run.path}\n{dump(recipe)}")
    _show(cluster.script(spec))
    if (request := following(recipe, options.metrics)) is None:
        return
    counts = dict.fromkeys(f"{size:,} {registry.ROWS[kind].over}" for kind, size in request.sizes.items())
    shards = f"{request.shards} shard{'' if request.shards == 1 else 's'}"
    _show(f"# evaluation {request.id}: {' and '.join(counts)} in {shards}, after the training")
    after = After((JobRef(cluster=cluster.name, job_id="JOB_OF_THE_TRAINING"),))
    evaluation = specs.sharded([run.evals / request.id], recipe.cluster, cluster, run=run, after=after)
    _show(cluster.script(evaluation, request.shards))


def preview_group(options: SubmitOptions, cluster: Cluster, spec: JobSpec) -> None:
    """Show a sweep of new runs."""
    group, cells = options.group, options.cells
    assert group is not None, "a sweep has a group"
    _differences(options.file, options.given, find_profile(options.profile))
    open_cells = [cell.name for cell in missing(options)]
    existing = {run.name for run in group.runs()}
    _show(f"# group: {group.name}, {len(cells)} runs in {group.root}")
    for cell in cells:
        state = "finished" if cell.name not in open_cells else "exists" if cell.name in existing else "new"
        _show(f"#   {cell.name}  {' '.join(f'{key}={value}' for key, value in cell.values.items())}  {state}")
    _show(f"# the recipe of {cells[0].name}\n{dump(cells[0].recipe)}")
    if open_cells:
        _show(cluster.script(spec, 1 if cluster.blocks else len(open_cells)))
    if options.metrics:
        _show(f"# an evaluation ({', '.join(options.metrics)}) of each run, after its training")


def _differences(file: Path, given: Sequence[str], profile: Path | None) -> None:
    """Comments before the YAML: what differs from the recipe that ``file`` extends, and what has set it."""
    try:
        base, found = from_base(file, given, profile)
    except RecipeError:
        return  # The recipe is complete only with the values of a sweep.
    if base is None:
        return
    out.print(f"# {keys_differ(len(found))} from {called(base)}:" if found else f"# same as {called(base)}")
    for entry in found:
        before = "" if entry.before is None else f" instead of {entry.before}"
        out.print(f"#   {entry.key}: {entry.value}{before}  ({entry.place})")


def _show(text: str) -> None:
    out.print(text, no_wrap=True)


def remark(text: str) -> None:
    """Say what people should know."""
    err.print(text, style="yellow")


def started(run: RunFolder) -> None:
    """Say that a run has a job."""
    err.print(strong("run ", run.name, f" in {run.path}"))


def continues(
    run: RunFolder, recipe: Recipe, start: int, damaged: Sequence[DamagedCheckpoint], warnings: Sequence[str]
) -> None:
    """Say from where a run continues, with remarks about that."""
    for text in (*(entry.skipped for entry in damaged), *warnings):
        remark(text)
    err.print(strong("resuming ", run.name, f" from step {start} of {recipe.train.steps}"))


def finish(begun: Begun, follow: bool) -> int:
    """Print what was started and what to type next; stay with it if asked to. Returns the exit code."""
    run, cluster = begun.run, begun.cluster
    # On a terminal, its name has just been said.
    if not (out.is_terminal and shows_bars()):
        out.print(run.name)
    if not cluster.blocks:
        _left_out(run)
        err.print(f"job {begun.job.job_id} ({cluster.name})")
        for text in (*(f"then evaluation {name}" for name in begun.evaluations), *begun.said):
            err.print(text)
    if follow or cluster.blocks:
        return follow_run(run, begun.evaluations)
    say_next(run, f"status {run.name}", f"logs {run.name} -f", f"cancel {run.name}")
    return 0


def finish_group(begun: BegunGroup, follow: bool) -> int:
    """As `finish`, for the runs of a group."""
    group, cluster = begun.group, begun.cluster
    out.print(group.name)
    done = {
        "new": begun.new,
        "resumed": begun.resumed,
        "running already": begun.alive,
        "finished already": begun.finished,
        "not started": [entry.run.name for entry in begun.skipped if entry.run.name not in begun.jobs],
    }
    counted = ", ".join(f"{len(entries)} {what}" for what, entries in done.items() if entries)
    err.print(strong(f"{len(begun.runs)} runs of the group ", group.name, f": {counted}"))
    if begun.jobs and not cluster.blocks:
        _left_out(next(run for run in begun.runs if run.name in begun.jobs))
        ids = dict.fromkeys(job.job_id.partition("_")[0] for job in begun.jobs.values())
        err.print(f"job {', '.join(ids)} ({cluster.name})")
        if chained := sum(map(len, begun.evaluations.values())):
            err.print(f"then an evaluation of {'each' if chained == len(begun.jobs) else chained}")
    for entry in begun.skipped:
        err.failure(f"{entry.run.name}: {entry.reason}", style="red")
    code = max((entry.exit_code for entry in begun.skipped), default=0)
    if follow or cluster.blocks:
        return follow_group(group, begun.runs, begun.evaluations) or code
    is_evaluated = any(begun.evaluations.values()) or any(run.evaluation_names() for run in begun.runs)
    results = f"compare {group.name}" if is_evaluated else f"eval {group.name} --elbo"
    say_next(RunFolder(group.root / group.name), f"status {group.name}", results, f"cancel {group.name}")
    return code


def _left_out(run: RunFolder) -> None:
    """Say which Python files the jobs of a run will miss."""
    if (line := left_out_code(run)) is not None:
        remark(line)


def interrupted(run: RunFolder, job: JobRef) -> None:
    """Say what goes on after Ctrl-C, and what does not."""
    goes_on = f"{run.name} is submitted as job {job.job_id} and goes on"
    err.print(f"interrupted; {goes_on} (`{command(f'cancel {run.name}', run)}` ends it)")
    if (missing := without_jobs(run)) is not None:
        err.print(missing)


def say_estimate(options: SubmitOptions, start: float | None) -> None:
    """Say how long a run will take, and when it begins, as far as this is known."""
    found = estimate(options.path.parent, options.recipe, without=options.path.name)
    err.print(estimate_line(found, start))


def say_outcome(run: RunFolder, made: EvaluationPlan, outcome: Outcome, where: Cluster) -> None:
    """Say which evaluations of a plan are complete, which are being computed, and by which job."""
    many = len(made.requests) > 1
    if many:
        groups = {"already complete": outcome.complete, "being computed": outcome.running, "started": outcome.started}
        counts = ", ".join(f"{len(names)} {words}" for words, names in groups.items() if names)
        err.print(strong(f"{len(made.requests)} evaluations of ", run.name, f": {counts}"))
    else:
        for name in (*outcome.complete, *outcome.running):
            err.print(f"{name} is already {'complete' if name in outcome.complete else 'being computed'}")
    if outcome.job is not None:
        which = made.sweep.id if made.sweep is not None else outcome.started[0]
        several = many and made.sweep is None
        what = ("evaluations",) if several else ("evaluation ", which)
        err.print(strong(*what), f"of {run.name}, job {outcome.job.job_id} ({where.name})")
    for text in outcome.said:
        err.print(text)


def say_where(run: RunFolder, made: EvaluationPlan, outcome: Outcome) -> None:
    """Print the names of evaluations that are not waited for, and what to type next."""
    names = [request.id for request in made.requests]
    out.print(made.sweep.id if made.sweep is not None else "\n".join(names))
    say_next(run, f"status {run.name}", f"logs {run.name} --eval {(outcome.started or outcome.running)[0]} -f")


def say_cost(recipe: Recipe, todo: Sequence[TuneRequest]) -> None:
    """Say how many evaluations of the network tunings will take, if any are to come."""
    if not todo:
        return
    with Working("counting evaluations"):
        from cld_core import sde
        from cld_core.tuned import cost

        diffusion = sde.build(recipe.sde)
        most = sum(cost.most(request, diffusion, recipe.network.images) for request in todo)
    first = todo[0]
    minutes = first.budget_min
    limit = "no limit of time" if minutes is None else f"at most {minutes:g} minutes for the fit of each N"
    solved = f"the flow of {2 * first.points:,} draws, then at most {most:,} evaluations of the network"
    err.print(f"step {first.checkpoint_step}: {solved} for each of {first.points:,}; {limit}")
