"""`cldctl eval` and `compare`: evaluate checkpoints in shards, sweep over settings, see results side by side."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cld_core.errors import UsageError
from cldctl.show.progress import Working

from . import options


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
        typer.Argument(
            metavar="RUN | GROUP | KEY=VALUE",
            help="A run (default: the newest) or a group, and keys of eval, sampling, ema and cluster to change.",
        ),
    ] = None,
    metrics: tuple[str, ...] = (),
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Number of samples, or of test points if none are drawn; default: eval.samples."),
    ] = None,
    shards: options.Shards = None,
    checkpoint: Annotated[str, typer.Option(metavar="last|all|STEP", help="Which checkpoints.")] = "last",
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=a,b,c",
            help="Evaluate each of these settings, shown as a table; can be repeated for other keys.",
        ),
    ] = None,
    compare: Annotated[bool, typer.Option(help="Show finished results of runs side by side.")] = False,
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
    from cldctl.runs.evaluate import EvalOptions, plan, plan_group, start, start_several
    from cldctl.show.submission import finish_evaluations, finish_group_evaluations, remark

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
    name, overrides = options.one_run(words)
    wanted = EvalOptions(
        metrics=metrics,
        overrides=tuple(overrides),
        samples=samples,
        sweep=tuple(sweep or ()),
        checkpoint=checkpoint,
        shards=shards,
        cluster=cluster,
        allow_plugin=allow_plugin,
    )
    root = options.runs_dir(directory)
    if (group := options.group_named(name, root)) is not None:
        with Working(f"looking at what is missing of the evaluations of {group.name}"):
            ready, skipped = plan_group(group, wanted, remark)
        begun = start_several(ready, group, max_parallel)
        raise typer.Exit(finish_group_evaluations(group, begun, skipped, follow))
    run = options.find_run(name, root)
    with Working(f"looking at what is missing of the evaluation of {run.name}"):
        planned = plan(run, wanted, remark)
    raise typer.Exit(finish_evaluations(planned, start(planned, max_parallel), follow))


def compare(
    names: options.Runs,
    checkpoint: Annotated[
        str,
        typer.Option(metavar="last|STEP", help="The step whose results are compared; last: the newest that has some."),
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
