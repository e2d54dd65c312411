"""`cldctl eval` and `compare`: evaluate checkpoints in shards, sweep over settings, see results side by side."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cld_core.errors import CldError, UsageError

from . import completion, options

if TYPE_CHECKING:
    from cld_core.recipe.cluster import ClusterSpec
    from cld_core.run import RunFolder
    from cld_core.run.groups import Group
    from cldctl.clusters.base import Cluster
    from cldctl.evals.plan import EvaluationPlan
    from cldctl.runs.evaluate import EvalOptions, Outcome

    Planned = tuple[EvaluationPlan, Cluster, ClusterSpec]


def _with_metric_flags(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` with a flag for each metric in place of its argument ``metrics``."""
    from cld_core.evaluation import registry

    flags = {metric.name.replace("-", "_"): metric for metric in registry.metrics()}

    def command(**arguments: Any) -> None:
        function(metrics=tuple(metric.name for name, metric in flags.items() if arguments.pop(name)), **arguments)

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter(name, keyword, default=False, annotation=Annotated[bool, typer.Option(it.flag, help=it.help)])
        for name, it in flags.items()
    ]
    first, _, *others = inspect.signature(function).parameters.values()
    parameters = [entry.replace(kind=keyword) for entry in (first, *own, *others)]
    command.__doc__ = function.__doc__
    # typer reads the signature; functions declare no such attribute, although inspect honours it.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    return command


@_with_metric_flags
def evaluate(
    words: Annotated[
        list[str] | None,
        options.run_and_keys(
            "A run (default: the newest) or a group, and keys of eval, sampling, ema and cluster to change.",
            "RUN | GROUP | KEY=VALUE",
        ),
    ] = None,
    metrics: tuple[str, ...] = (),
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Number of samples, or of test points if none are drawn; default: eval.samples."),
    ] = None,
    shards: options.Shards = None,
    checkpoint: Annotated[
        str, typer.Option(metavar="last|all|STEP", help="Which checkpoints.", autocompletion=completion.checkpoints)
    ] = "last",
    sweep: Annotated[
        list[str] | None,
        options.sweep("Evaluate each of these settings, shown as a table; can be repeated for other keys."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show finished results of runs side by side.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --compare: one JSON document.")] = False,
    max_parallel: options.MaxParallel = None,
    cluster: options.ClusterOfRun = None,
    follow: options.Follow = False,
    allow_plugin: options.AllowPlugin = False,
    directory: options.RunsDir = None,
) -> None:
    """Evaluate checkpoints of a run. Running it again computes only what is missing.

    Example: cldctl eval --fid --elbo --samples 50000 --shards 16 --follow sampling.method=exponential sampling.nfe=50
    """
    from cld_core.evaluation import registry
    from cld_core.shards.request import require_few
    from cldctl.runs.evaluate import EvalOptions
    from cldctl.runs.options import refuse_twice
    from cldctl.show.follow import follow_evaluations
    from cldctl.show.submission import say_where

    if compare:
        given: dict[str, object] = {"samples": samples, "shards": shards, "sweep": sweep, "max-parallel": max_parallel}
        given |= {"cluster": cluster, "follow": follow, "allow-plugin": allow_plugin}
        if left := [*metrics, *(name for name, value in given.items() if value)]:
            raise UsageError(f"--compare shows finished results and computes none: leave out --{', --'.join(left)}.")
        names, overrides = options.split_runs(words)
        if overrides or not names:
            raise UsageError("--compare takes two or more runs and nothing else: `cldctl eval --compare RUN RUN`.")
        _compare(names, checkpoint, as_json, directory)
        return
    if as_json:
        raise UsageError("--json goes with --compare. `cldctl status RUN --json` has the results of one run.")
    if not metrics:
        raise UsageError(f"nothing to evaluate: add {', '.join(metric.flag for metric in registry.metrics())}.")
    if shards is not None:
        require_few(shards)
    name, overrides = options.one_run(words)
    root = options.runs_dir(directory)
    if samples is not None:
        key = f"eval.{'samples' if registry.draws_samples(metrics) else 'points'}"
        refuse_twice("--samples", [key], [*overrides, *(sweep or [])])
        overrides.append(f"{key}={samples}")
    asked = EvalOptions(
        metrics=metrics,
        overrides=tuple(overrides),
        sweep=tuple(sweep or ()),
        checkpoint=checkpoint,
        shards=shards,
        parallel=max_parallel,
        cluster=cluster,
        allow_plugin=allow_plugin,
    )
    if (group := options.group_named(name, root)) is not None:
        _evaluate_group(group, asked, follow)
        return
    run = options.find_run(name, root)
    made, where, size = _planned(run, asked)
    outcome = start(run, made, where, size, max_parallel)
    if not (follow or where.blocks) and (outcome.running or outcome.started):
        say_where(run, made, outcome)
        return
    raise typer.Exit(follow_evaluations(run, tuple(request.id for request in made.requests), made.sweep))


def _planned(run: "RunFolder", asked: "EvalOptions") -> "Planned":
    from cldctl.runs.evaluate import planned

    with looking(run, f"looking at what is missing of the evaluation of {run.name}"):
        return planned(run, asked, remark)


@contextmanager
def looking(run: "RunFolder", what: str, typed: dict[str, str] | None = None) -> Iterator[None]:
    """A context in which it is found out what is missing; see `named_as_typed`."""
    from cldctl.show.progress import Working

    with Working(what), options.named_as_typed(typed or {}, run):
        yield


def remark(text: str) -> None:
    """Say something about what is about to be computed."""
    from cldctl.show.console import err

    err.print(text, markup=False, style="yellow")


def start(
    run: "RunFolder", made: "EvaluationPlan", where: "Cluster", size: "ClusterSpec", parallel: int | None
) -> "Outcome":
    """Start the missing evaluations of a plan, and say so."""
    from cldctl.runs import evaluate, home
    from cldctl.show.submission import say_outcome

    with home.only_one(run.path, where):
        outcome = evaluate.start(run, made, where, size, parallel)
    say_outcome(run, made, outcome, where)
    return outcome


def _evaluate_group(group: "Group", asked: "EvalOptions", follow: bool) -> None:
    """Evaluate the runs of a group: at their last checkpoints, once they are finished."""
    from cld_core.evaluation.evaluation import Evaluation
    from cldctl.hints import command_of_group
    from cldctl.runs import evaluate
    from cldctl.runs.training import is_finished
    from cldctl.show.console import err, out
    from cldctl.show.follow import follow_group_evaluations
    from cldctl.show.submission import say_outcome

    runs = group.runs()
    ready = [run for run in runs if asked.checkpoint != "last" or is_finished(run)]
    if left := [run.name for run in runs if run not in ready]:
        text = f"not finished, and not evaluated: {', '.join(left)}"
        err.print(f"{text}. Run this again later, or pass --checkpoint STEP", style="yellow")
    plans: list[tuple[RunFolder, EvaluationPlan, Cluster, ClusterSpec]] = []
    code = 0
    for run in ready:
        try:
            plans.append((run, *_planned(run, asked)))
        except CldError as error:
            err.failure(f"{run.name}: {error}", style="red")
            code = code or error.exit_code
    for run, made, where, outcome in evaluate.start_alike(group, plans, asked.parallel):
        say_outcome(run, made, outcome, where)
    works = [Evaluation(run.evals / request.id) for run, made, _, _ in plans for request in made.requests]
    compared = command_of_group(f"compare {group.name}", group)
    if works and (follow or plans[0][2].blocks):
        code = follow_group_evaluations(group, runs, works) or code
        if code == 0:
            err.print(f"next:\n  {compared}", markup=False)
    else:
        out.print(group.name, markup=False)
        err.print(f"next:\n  {command_of_group(f'status {group.name}', group)}\n  {compared}", markup=False)
    raise typer.Exit(code)


def compare(
    names: options.Runs,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="last|STEP",
            help="The step whose results are compared; last: the newest that has some.",
            autocompletion=completion.checkpoints,
        ),
    ] = "last",
    as_json: options.AsJson = False,
    directory: options.RunsDir = None,
) -> None:
    """Show finished results side by side; of groups, mean and standard deviation over seeds.

    Example: cldctl compare toy-0102-101112-ab12 toy-0102-101530-cd34
    """
    from cld_core.run import RunFolder
    from cldctl.show.evaluations import show_compared

    if checkpoint == "all":
        raise UsageError("one checkpoint of each run can be compared: --checkpoint last or STEP.")
    root = options.runs_dir(directory)
    chosen = [options.group_named(name, root) or options.find_run(name, root) for name in names]
    if len(chosen) == 1 and isinstance(chosen[0], RunFolder):
        raise UsageError(f"{chosen[0].name} is one run: compare takes a group, or two or more runs.")
    show_compared(chosen, checkpoint, as_json)


# `evaluate` has an option of this name.
_compare = compare
