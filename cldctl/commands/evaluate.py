"""`cldctl eval`: evaluate checkpoints, in shards; sweep over settings; compare runs side by side."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cld_core.errors import UsageError
from cld_core.evaluation import registry
from cld_core.evaluation.definitions import Metric
from cld_core.evaluation.evaluation import Evaluation
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cld_core.run.trust import require_own_plugin
from cld_core.shards.request import require_few
from cldctl.ui.console import err, out, strong
from cldctl.ui.progress import Working

from . import completing
from .compare import show
from .groups import for_each, hint
from .options import (
    AllowPlugin,
    ClusterOfRun,
    Follow,
    RunsDir,
    Shards,
    find_run,
    group_named,
    one_run,
    refuse_twice,
    runs_dir,
    split_runs,
)

if TYPE_CHECKING:
    from cld_core.recipe.cluster import ClusterSpec
    from cldctl.clusters.base import Cluster
    from cldctl.evals.plan import EvaluationPlan
    from cldctl.runs.evaluate import Outcome


def _with_metric_flags(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` with a flag for each metric in place of its argument ``metrics``."""

    def command(**arguments: Any) -> None:
        asked = tuple(metric.name for metric in registry.metrics() if arguments.pop(_parameter(metric)))
        function(metrics=asked, **arguments)

    first, _, *others = inspect.signature(function).parameters.values()
    flags = [
        inspect.Parameter(
            _parameter(metric),
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(metric.flag, help=metric.help)],
        )
        for metric in registry.metrics()
    ]
    parameters = [entry.replace(kind=inspect.Parameter.KEYWORD_ONLY) for entry in (first, *flags, *others)]
    command.__doc__ = function.__doc__
    # typer reads the signature; functions declare no such attribute, although inspect honours it.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    return command


def _parameter(metric: Metric) -> str:
    return metric.name.replace("-", "_")


@_with_metric_flags
def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | GROUP | KEY=VALUE",
            help="A run (default: the newest) or a group, and keys of eval, sampling and cluster to change.",
            autocompletion=completing.runs_and_overrides,
        ),
    ] = None,
    metrics: tuple[str, ...] = (),
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Samples, or test points if none are drawn; default: eval.samples."),
    ] = None,
    shards: Shards = None,
    checkpoint: Annotated[
        str, typer.Option(metavar="last|all|STEP", help="Which checkpoints.", autocompletion=completing.checkpoints)
    ] = "last",
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=a,b,c",
            help="A table over settings; once for each key.",
            autocompletion=completing.overrides,
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show finished results of runs side by side.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --compare: one JSON document.")] = False,
    max_parallel: Annotated[
        int | None, typer.Option("--max-parallel", min=1, help="Tasks that may run at once.")
    ] = None,
    cluster: ClusterOfRun = None,
    follow: Follow = False,
    allow_plugin: AllowPlugin = False,
    directory: RunsDir = None,
) -> None:
    """Evaluate checkpoints of a run. Running it again computes only what is missing.

    Example: cldctl eval --fid --elbo --samples 50000 --shards 16 --follow sampling.method=exponential sampling.nfe=50
    """
    if compare:
        options: dict[str, object] = {"samples": samples, "shards": shards, "sweep": sweep}
        options |= {"max-parallel": max_parallel, "cluster": cluster, "follow": follow, "allow-plugin": allow_plugin}
        given = [*metrics, *(name for name, value in options.items() if value)]
        if given:
            raise UsageError(f"--compare shows finished results and computes none: leave out --{', --'.join(given)}.")
        _compare(words, checkpoint, as_json, directory)
        return
    if as_json:
        raise UsageError("--json goes with --compare. `cldctl status RUN --json` has the results of one run.")
    if not metrics:
        raise UsageError(f"nothing to evaluate: add {', '.join(metric.flag for metric in registry.metrics())}.")
    if shards is not None:
        require_few(shards)
    name, overrides = one_run(words)
    root = runs_dir(directory)
    group = None if name is None else group_named(name, root)
    if samples is not None:
        key = f"eval.{'samples' if registry.draws_samples(metrics) else 'points'}"
        refuse_twice("--samples", [key], [*overrides, *(sweep or [])])
        overrides.append(f"{key}={samples}")
    asked = _Asked(metrics, overrides, sweep or [], checkpoint, shards, max_parallel, cluster, allow_plugin)
    if group is not None:
        _compute_group(group, asked, follow)
        return
    run = find_run(name, root)
    made, outcome, where = _start(run, asked)
    _show(run, made, outcome, follow or where.blocks)


@dataclass(frozen=True)
class _Asked:
    """What somebody typed behind `eval`, except for the run."""

    metrics: Sequence[str]
    overrides: Sequence[str]
    sweep: Sequence[str]
    checkpoint: str
    shards: int | None
    max_parallel: int | None
    cluster: str | None
    allow_plugin: bool


def _start(run: RunFolder, asked: _Asked) -> "tuple[EvaluationPlan, Outcome, Cluster]":
    """Start what is missing of the evaluations of a run, and say so."""
    from cldctl.runs import home
    from cldctl.runs.evaluate import start

    made, where, size = _planned(run, asked)
    with home.only_one(run.path, where):
        outcome = start(run, made, where, size, asked.max_parallel)
    _say(run, made, outcome, where)
    return made, outcome, where


def _planned(run: RunFolder, asked: _Asked) -> "tuple[EvaluationPlan, Cluster, ClusterSpec]":
    """What is asked for of a run, where to compute it, and the jobs that a training with these settings would get."""
    from cldctl.evals import plan
    from cldctl.evals.sweep import parse
    from cldctl.runs import home
    from cldctl.runs.evaluate import divided_otherwise, fewer_shards

    require_may_change(run.path, "Nothing was evaluated")
    axes = parse(asked.sweep)
    refuse_twice("--sweep", [axis.key for axis in axes], asked.overrides)
    where = home.chosen(asked.cluster, run)
    recipe = run.recipe()
    if not asked.allow_plugin:
        require_own_plugin(run, recipe, of_metrics=True)
    size = plan.recipe_for_evaluation(recipe, asked.overrides, str(run.recipe_file)).cluster
    steps, damaged = plan.checkpoints(run, asked.checkpoint)
    for entry in damaged:
        err.print(entry.skipped, markup=False, style="yellow")
    if damaged:
        err.print(f"evaluating step {', '.join(map(str, steps))} of {run.name}")
    with Working(f"looking at what is missing of the evaluation of {run.name}"):
        made = plan.make(run, asked.metrics, steps, asked.overrides, axes, asked.shards)
    if asked.shards is not None and (fewer := fewer_shards(made.requests, asked.shards)) is not None:
        err.print(f"--shards {asked.shards}: {fewer} shards instead, one for each sample or test point")
    for other, pieces in divided_otherwise(run, made.requests) if asked.shards is not None else []:
        err.print(f"{other} was begun in {pieces} shards and keeps them")
    return made, where, size


def _compute_group(group: Group, asked: _Asked, follow: bool) -> None:
    """Evaluate the runs of a group: at their last checkpoints, once they are finished."""
    from cldctl.runs import arrays, evaluate, home
    from cldctl.runs.requests import is_finished

    runs = group.runs()
    ready = [run for run in runs if asked.checkpoint != "last" or is_finished(run)]
    if left := [run.name for run in runs if run not in ready]:
        text = f"not finished, and not evaluated: {', '.join(left)}"
        err.print(f"{text}. Run this again later, or pass --checkpoint STEP", style="yellow")
    plans: list[tuple[RunFolder, EvaluationPlan, Cluster, ClusterSpec]] = []
    code = for_each(ready, lambda run: plans.append((run, *_planned(run, asked))))
    # By one submission for all of the same cluster and size, as runs of a group usually are.
    alike: dict[tuple[str, ClusterSpec], list[tuple[RunFolder, EvaluationPlan]]] = {}
    for run, made, where, size in plans:
        alike.setdefault((where.name, size), []).append((run, made))
    for (name, size), mine in alike.items():
        where = home.chosen(name)
        with arrays.locked([run for run, _ in mine], where):
            outcomes = evaluate.start_group(group, mine, where, size, asked.max_parallel)
        for (run, made), outcome in zip(mine, outcomes, strict=True):
            _say(run, made, outcome, where)
    works = [Evaluation(run.evals / request.id) for run, made, _, _ in plans for request in made.requests]
    if works and (follow or plans[0][2].blocks):
        from cldctl.ui.follow_group import follow_group_evaluations

        code = follow_group_evaluations(group, runs, works) or code
        if code == 0:
            err.print(f"next:\n  {hint(f'compare {group.name}', group)}")
        raise typer.Exit(code)
    out.print(group.name, markup=False)
    err.print("next:")
    for text in (f"status {group.name}", f"compare {group.name}"):
        err.print(f"  {hint(text, group)}", markup=False)
    if code:
        raise typer.Exit(code)


def _say(run: RunFolder, made: "EvaluationPlan", outcome: "Outcome", where: "Cluster") -> None:
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


def _show(run: RunFolder, made: "EvaluationPlan", outcome: "Outcome", stay: bool) -> None:
    """The results if they exist or are waited for; else what to type next."""
    names = tuple(request.id for request in made.requests)
    if stay or not (outcome.running or outcome.started):
        from cldctl.ui.follow import follow_evaluations

        raise typer.Exit(follow_evaluations(run, names, made.sweep))
    from cldctl.hints import command

    out.print(made.sweep.id if made.sweep is not None else "\n".join(names), markup=False)
    log = command(f"logs {run.name} --eval {(outcome.started or outcome.running)[0]} -f", run)
    err.print(f"next:\n  {command(f'status {run.name}', run)}\n  {log}", markup=False)


def _compare(words: list[str] | None, checkpoint: str, as_json: bool, directory: Path | None) -> None:
    names, overrides = split_runs(words)
    root = runs_dir(directory)
    is_group = len(names) == 1 and group_named(names[0], root) is not None
    if (len(names) < 2 and not is_group) or overrides:
        raise UsageError("--compare takes two or more runs and nothing else: `cldctl eval --compare RUN RUN`.")
    if checkpoint == "all":
        raise UsageError("--compare takes one checkpoint of each run: --checkpoint last or STEP.")
    show(names, checkpoint, as_json, root)
