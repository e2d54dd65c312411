"""`cldctl tune` and `bench samplers`: fit a sampler to the network of a run, and compare samplers of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from cldctl.show.console import err
from cldctl.show.progress import Working

from . import options


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
    from cld_core.evaluation.registry import parse_metrics
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
