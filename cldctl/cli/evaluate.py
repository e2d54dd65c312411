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
from cld_core.shards.request import require_few
from cldctl.show.console import err, out
from cldctl.show.progress import Working

from . import completing, starting
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
            help="A run (default: the newest) or a group, and keys of eval, sampling, ema and cluster to change.",
            autocompletion=completing.runs_and_overrides,
        ),
    ] = None,
    metrics: tuple[str, ...] = (),
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Number of samples, or of test points if none are drawn; default: eval.samples."),
    ] = None,
    shards: Shards = None,
    checkpoint: Annotated[
        str, typer.Option(metavar="last|all|STEP", help="Which checkpoints.", autocompletion=completing.checkpoints)
    ] = "last",
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=a,b,c",
            help="Evaluate each of these settings, shown as a table; can be repeated for other keys.",
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
    made, where, size = _planned(run, asked)
    outcome = starting.started(run, made, where, size, max_parallel)
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


def _planned(run: RunFolder, asked: _Asked) -> "tuple[EvaluationPlan, Cluster, ClusterSpec]":
    """The requested evaluations of a run, where to compute them, and the jobs that a training would get."""
    from cldctl.evals import plan
    from cldctl.evals.sweep import parse

    require_may_change(run.path, "Nothing was evaluated")
    axes = parse(asked.sweep)
    refuse_twice("--sweep", [axis.key for axis in axes], asked.overrides)
    where, size = starting.place(run, asked.cluster, asked.overrides, asked.allow_plugin)
    steps = starting.steps_of(run, asked.checkpoint)
    with Working(f"looking at what is missing of the evaluation of {run.name}"):
        made = plan.make(run, asked.metrics, steps, asked.overrides, axes, asked.shards)
    starting.say_division(run, made, asked.shards)
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
            starting.say_outcome(run, made, outcome, where)
    works = [Evaluation(run.evals / request.id) for run, made, _, _ in plans for request in made.requests]
    if works and (follow or plans[0][2].blocks):
        from cldctl.show.follow import follow_group_evaluations

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


def _show(run: RunFolder, made: "EvaluationPlan", outcome: "Outcome", stay: bool) -> None:
    """Show the results if they exist or are waited for, otherwise the command to type next."""
    names = tuple(request.id for request in made.requests)
    if stay or not (outcome.running or outcome.started):
        from cldctl.show.follow import follow_evaluations

        raise typer.Exit(follow_evaluations(run, names, made.sweep))
    starting.say_where(run, made, outcome)


def _compare(words: list[str] | None, checkpoint: str, as_json: bool, directory: Path | None) -> None:
    names, overrides = split_runs(words)
    root = runs_dir(directory)
    is_group = len(names) == 1 and group_named(names[0], root) is not None
    if (len(names) < 2 and not is_group) or overrides:
        raise UsageError("--compare takes two or more runs and nothing else: `cldctl eval --compare RUN RUN`.")
    if checkpoint == "all":
        raise UsageError("--compare takes one checkpoint of each run: --checkpoint last or STEP.")
    show(names, checkpoint, as_json, root)
