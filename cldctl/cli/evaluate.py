"""Checkpoints: `cldctl eval`, `compare`, `sample`, `tune` and `bench samplers`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cld_core.errors import UsageError
from cldctl.show.console import Working, err, out

from . import options


def _with_metric_flags(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` with a flag for each metric in place of its argument ``metrics``."""
    from cld_core.evaluate import registry

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
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Further metrics by name, for example those of the run's plug-ins."),
    ] = None,
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
    from cld_core.evaluate import registry
    from cldctl.runs.evaluate import EvalOptions, plan, plan_group, start, start_several
    from cldctl.show.submission import finish_evaluations, finish_group_evaluations, remark

    if compare:
        given: dict[str, object] = {"samples": samples, "shards": shards, "sweep": sweep, "max-parallel": max_parallel}
        given |= {"metric": metric, "cluster": cluster, "follow": follow, "allow-plugin": allow_plugin}
        if left := [*metrics, *(name for name, value in given.items() if value)]:
            raise UsageError(f"--compare shows finished results and computes none: leave out --{', --'.join(left)}.")
        names, overrides = options.split_runs(words)
        if overrides or not names:
            raise UsageError("--compare takes two or more runs and nothing else: `cldctl eval --compare RUN RUN`.")
        compare_runs(names, checkpoint, as_json, directory)
        return
    if as_json:
        raise UsageError("--json goes with --compare. `cldctl status RUN --json` has the results of one run.")
    if not metrics and metric is None:
        raise UsageError(f"nothing to evaluate: add {', '.join(metric.flag for metric in registry.metrics())}.")
    name, overrides = options.one_run(words)
    wanted = EvalOptions(
        metrics=metrics,
        named=metric,
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


def compare_runs(
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


# More do not fit into one file that anybody could open; `cldctl eval` draws and keeps as many as there is disk for.
MAX_SAMPLES = 10_000_000


def sample(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | KEY=VALUE", help="A run (default: the newest), and keys of sampling and ema to change."
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            metavar="N",
            min=1,
            max=MAX_SAMPLES,
            help="Number of samples; default: 64 images, 2,000 points.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.png|.npz", help="Where to write; an existing file is replaced."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="ode|em|sscs|exponential|gddim|conjugate|splitting|tuned",
            help="Sampling method; default: the recipe's. exponential is best below 100 NFE; at 10, use it with "
            "sampling.order=3, sampling.corrector=false and sampling.grid_power=3.",
        ),
    ] = None,
    nfe: Annotated[
        int | None, typer.Option(metavar="N", help="Network evaluations (NFE) of a fixed-step method.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|NAME", help="Class of all samples; default: each class as often as in the training data."
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="W", help="Scale of classifier-free guidance: 1 is the conditional score, 0 the unconditional one."
        ),
    ] = None,
    checkpoint: options.Checkpoint = "last",
    seed: options.Seed = 0,
    observe: Annotated[
        str | None,
        typer.Option(
            metavar="x=NUMBER|FILE.npz", help="Draw samples given an observation: a coordinate of toy data, or arrays."
        ),
    ] = None,
    inpaint: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Draw samples given a part of this picture; needs --mask.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="MASK.png", help="White where IMAGE is to be painted, black where known.")
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="Standard deviation of the noise in the observation.")
    ] = None,
    how: Annotated[
        str | None,
        typer.Option(
            metavar="gradient|replacement",
            help="How samples are made to agree with the observation; default: gradient.",
        ),
    ] = None,
    gradient_scale: Annotated[
        float | None, typer.Option(metavar="W", min=0, help="Factor of the gradient; default: 1, which is Bayes' rule.")
    ] = None,
    allow_plugin: options.AllowPlugin = False,
    directory: options.RunsDir = None,
) -> None:
    """Draw samples: a grid of images, a scatter over the true density (toy data), or arrays (.npz).

    Without -o, the picture is written to samples/ of the run, in a file named after its settings.

    An .npz file has the arrays x (in [-1, 1] for images), v, nfe, for images their pixels as uint8
    (n, height, width, 3), and for class-conditional models the labels.

    With --observe or --inpaint, samples agree with what is known about x.

    Example: cldctl sample -n 4000 --method exponential --nfe 20 -o samples.png

    Example: cldctl sample --observe x=0.3 --method exponential --nfe 50
    """
    from cld_core.ownership import require_may_change
    from cldctl.runs.sample import Observed, SampleOptions, draw

    observed = Observed(observe, inpaint, mask, sigma, how, gradient_scale)
    run, overrides = options.run_and_overrides(words, directory)
    if output is None:
        require_may_change(run.path, "No samples were drawn; use -o FILE.png")
    options.check_output(output, (".png", ".npz"), "samples are")
    wanted = SampleOptions(
        run=run,
        overrides=overrides,
        method=method,
        nfe=nfe,
        guidance=guidance,
        checkpoint=checkpoint,
        count=n,
        seed=seed,
        output=output,
        label=label,
        observed=observed,
        allow_plugin=allow_plugin,
    )
    with Working(f"loading {run.name}") as working:
        drawn = draw(wanted, working)
    if drawn.warning is not None:
        err.print(drawn.warning, style="yellow")
    for text in filter(None, (drawn.about, drawn.agreement)):
        err.print(text)
    out.print(str(drawn.file), no_wrap=True)


def tune(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | KEY=VALUE",
            help="A run (default: the newest), and keys of sampling, ema and cluster to change.",
        ),
    ] = None,
    nfe: Annotated[
        str, typer.Option(metavar="N[,N]", help="Network evaluations per sample, denoising included.")
    ] = "10",
    points: Annotated[
        int | None,
        typer.Option(
            metavar="P", help="Draws of the noise to fit to, and as many held-out ones; default: 4,000, for images 16."
        ),
    ] = None,
    budget: Annotated[str, typer.Option(metavar="MINUTES | none", help="Time limit for the fit of each N.")] = "60",
    seed: options.Seed = 0,
    checkpoint: options.Checkpoint = "last",
    as_json: options.AsJson = False,
    cluster: options.ClusterOfRun = None,
    follow: options.Follow = False,
    allow_plugin: options.AllowPlugin = False,
    directory: options.RunsDir = None,
) -> None:
    """Fit a sampler with few network evaluations to the network of a run, for sampling.method=tuned.

    The sampler is fitted to the network's own probability flow, and held-out noise decides whether the fit is kept.
    Running it again shows the result, or continues where it stopped.

    Example: cldctl tune toy-0102-101112-ab12 --nfe 5,7,10 --follow
    """
    from cldctl.runs.options import network_evaluations
    from cldctl.runs.tune import minutes, plan, start
    from cldctl.show.submission import finish_tunings, remark, say_cost

    numbers, budget_min = network_evaluations(nfe), minutes(budget)
    run, overrides = options.run_and_overrides(words, directory)
    planned = plan(
        run,
        overrides,
        nfe=numbers,
        points=points,
        budget_min=budget_min,
        seed=seed,
        checkpoint=checkpoint,
        cluster=cluster,
        allow_plugin=allow_plugin,
        say=remark,
    )
    say_cost(planned)
    raise typer.Exit(finish_tunings(planned, start(planned, err.print), as_json, follow))


def samplers(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | KEY=VALUE",
            help="A run (default: the newest), and keys of eval, sampling and cluster that hold for all samplers.",
        ),
    ] = None,
    nfe: Annotated[
        str, typer.Option(metavar="N,N,...", help="Network evaluations per sample, denoising included.")
    ] = "10,20,50,100",
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="A,B,...",
            help="fid, kid, isc and prc for images; w2 and density for toys; flow-distance for both; "
            "classes and class-law for models with classes. "
            "Default: fid for images, w2,density,flow-distance for toys; without density for data of a plug-in.",
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Samples per seed; default: eval.samples.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Repetitions with new noise; default: 4 for toys, 1 for images.")
    ] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=KEY=VALUE,...]",
            help="Compare only this sampler, or add one with these keys of sampling; can be repeated.",
        ),
    ] = None,
    checkpoint: options.Checkpoint = "last",
    shards: options.Shards = None,
    max_parallel: options.MaxParallel = None,
    cluster: options.ClusterOfRun = None,
    follow: options.Follow = False,
    dry_run: Annotated[bool, typer.Option(help="List the samplers and start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of tables.")] = False,
    csv: Annotated[
        Path | None, typer.Option(help="File for all numbers, published ones included, ending in .csv.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="File for the picture, ending in .png.")] = None,
    allow_plugin: options.AllowPlugin = False,
    directory: options.RunsDir = None,
) -> None:
    """Compare samplers of one checkpoint at equal numbers of network evaluations.

    They run as one array of evaluations. Running it again computes only what is missing, and shows the results.

    Example: cldctl bench samplers --nfe 10,20,50 --metric w2,flow-distance --samples 10000 --follow

    Example: cldctl bench samplers --sampler exponential --sampler fine=method=exponential,order=2,corrector=false
    """
    from cld_core.evaluate.registry import parse_metrics
    from cldctl.evals.samplers import comparing
    from cldctl.runs.evaluate import EvalOptions, plan_samplers, start
    from cldctl.runs.options import network_evaluations
    from cldctl.show.evaluations import show_plan
    from cldctl.show.submission import finish_samplers, remark

    options.check_output(csv, (".csv",), "numbers are", "--csv")
    options.check_output(plot, (".png",), "pictures are", "--plot")
    numbers = network_evaluations(nfe)
    run, overrides = options.run_and_overrides(words, directory)
    wanted = EvalOptions(
        metrics=parse_metrics(metrics, "--metric", comparing(run.recipe())),
        overrides=tuple(overrides),
        samples=samples,
        checkpoint=checkpoint,
        shards=shards,
        cluster=cluster,
        allow_plugin=allow_plugin,
    )
    with Working(f"looking at what is missing of the comparison of {run.name}"):
        made, planned = plan_samplers(run, sampler or (), numbers, seeds, wanted, remark)
    if dry_run:
        show_plan(run, made)
        return
    outcome = start(planned, max_parallel)
    raise typer.Exit(finish_samplers(made, planned, outcome, as_json, csv, plot, follow))
