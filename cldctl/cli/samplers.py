"""`cldctl tune` and `bench samplers`: fit a sampler to the network of a run, and compare samplers of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from cld_core.errors import UsageError

from . import completion, options


def tune(
    words: Annotated[
        list[str] | None,
        options.run_and_keys("A run (default: the newest), and keys of sampling, ema and cluster to change."),
    ] = None,
    nfe: Annotated[
        str, typer.Option("--nfe", metavar="N[,N]", help="Network evaluations per sample, denoising included.")
    ] = "10",
    points: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            help="Draws of the noise to fit to, and as many held-out ones; default: 4,000, for images 16.",
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
    from cld_core.ownership import require_may_change
    from cld_core.tuned.request import TuneRequest
    from cld_core.tuned.work import Tuning
    from cldctl.runs import home
    from cldctl.runs.tune import checkpoint_of, start
    from cldctl.show.console import err, strong
    from cldctl.show.evaluations import show_tunings
    from cldctl.show.follow import follow_works_of
    from cldctl.show.submission import say_cost

    from .evaluate import remark

    numbers, budget_min = _numbers(nfe, "5,7,10"), _minutes(budget)
    name, overrides = options.one_run(words)
    run = options.find_run(name, options.runs_dir(directory))
    require_may_change(run.path, "Nothing was tuned")
    where = home.chosen(cluster, run)
    recipe, step = checkpoint_of(run, overrides, checkpoint, allow_plugin, remark)
    requests = [TuneRequest.of(recipe, step, one, points=points, budget_min=budget_min, seed=seed) for one in numbers]
    begun = [Tuning(run.tuned / one.id) for one in requests if (run.tuned / one.id / "request.json").exists()]
    done = {work.name for work in begun if work.is_done}
    say_cost(recipe, [request for request in requests if request.id not in done])
    with home.only_one(run.path, where):
        made = start(run, requests, where, recipe.cluster, say=lambda text: err.print(text, markup=False))
    for found, state in ((made.complete, "complete"), (made.running, "being computed")):
        for one in found:
            err.print(f"{one} is already {state}", markup=False)
    if made.job is not None:
        text = f"of {run.name}, job {made.job.job_id} ({where.name})"
        err.print(strong("tuning ", ", ".join(made.started)), text)
    works = [Tuning(run.tuned / request.id) for request in requests]
    stay = follow or where.blocks
    if stay and (made.started or made.running):
        follow_works_of(run, works, f"tuning of {run.name}")
    raise typer.Exit(show_tunings(run, works, as_json, stay))


def _numbers(text: str, example: str) -> tuple[int, ...]:
    """The numbers of network evaluations that ``--nfe`` lists, in their order.

    Args:
        example: what a user might write instead.

    Raises:
        UsageError: one of them is not a whole number above 0, or is given twice.
    """
    from cld_core.texts import is_count

    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not is_count(word) or int(word) < 1:
            raise UsageError(f"--nfe: '{word}' is not a number of network evaluations. Write --nfe {example}.")
    numbers = tuple(map(int, words))
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--nfe {text} has a number twice. Remove one.")
    return numbers


def _minutes(text: str) -> float | None:
    """The minutes of ``--budget``; None for no limit.

    Raises:
        UsageError
    """
    from cld_core.texts import one_line

    try:
        return None if text.strip() == "none" else float(text)
    except ValueError:
        fix = "Write a number of them, or none to set no limit"
        raise UsageError(f"--budget {one_line(text)}: that is not a number of minutes. {fix}.") from None


def samplers(
    words: Annotated[
        list[str] | None,
        options.run_and_keys(
            "A run (default: the newest), and keys of eval, sampling and cluster that hold for all samplers."
        ),
    ] = None,
    nfe: Annotated[
        str, typer.Option("--nfe", metavar="N,N,...", help="Network evaluations per sample, denoising included.")
    ] = "10,20,50,100",
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="fid, kid, isc and prc for images; w2 and density for toys; flow-distance for both; "
            "classes and class-law for models with classes. "
            "Default: fid for images, w2,density,flow-distance for toys; without density for data of a plug-in.",
            autocompletion=completion.metrics,
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Samples per seed; default: eval.samples.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Repetitions with new noise; default: 4 for toys, 1 for images."),
    ] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=KEY=VALUE,...]",
            help="Compare only this sampler, or add one with these keys of sampling; can be repeated.",
            autocompletion=completion.samplers,
        ),
    ] = None,
    checkpoint: options.Checkpoint = "last",
    shards: options.Shards = None,
    max_parallel: options.MaxParallel = None,
    cluster: options.ClusterOfRun = None,
    follow: options.Follow = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the samplers and start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of tables.")] = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="File for all numbers, published ones included, ending in .csv.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="File for the picture, ending in .png.")] = None,
    allow_plugin: options.AllowPlugin = False,
    directory: options.RunsDir = None,
) -> None:
    """Compare samplers of one checkpoint at equal numbers of network evaluations.

    They run as one array of evaluations. Running it again computes only what is missing, and shows the results.

    Example: cldctl bench samplers --nfe 10,20,50 --metric w2,flow-distance --samples 10000 --follow

    Example: cldctl bench samplers --sampler exponential --sampler fine=method=exponential,order=2,corrector=false
    """
    from cld_core.evaluation import registry
    from cld_core.evaluation.evaluation import Evaluation
    from cld_core.ownership import require_may_change
    from cld_core.shards.request import require_few
    from cldctl.evals import samplers as evals
    from cldctl.runs.evaluate import division, place, steps_of
    from cldctl.runs.options import refuse_twice
    from cldctl.show.evaluations import show_plan, show_samplers
    from cldctl.show.follow import follow_works_of
    from cldctl.show.submission import say_where

    from .evaluate import looking, remark, start

    options.check_output(csv, (".csv",), "numbers are", "--csv")
    options.check_output(plot, (".png",), "pictures are", "--plot")
    if checkpoint == "all":
        raise UsageError("samplers of one checkpoint are compared: --checkpoint last or STEP.")
    if shards is not None:
        require_few(shards)
    name, overrides = options.one_run(words)
    if samples is not None:
        refuse_twice("--samples", ["eval.samples"], overrides)
        overrides.append(f"eval.samples={samples}")
    settings, numbers = evals.chosen(sampler or ()), _numbers(nfe, "10,20,50")
    evals.require_numbers(numbers)
    run = options.find_run(name, options.runs_dir(directory))
    wanted = registry.parse_metrics(metric, "--metric", evals.comparing(run.recipe()))
    metrics, usual = evals.suited(run.recipe(), wanted)
    asked = evals.Asked(metrics=metrics, settings=settings, nfe=numbers, seeds=seeds or usual)
    typed = {evals.NFE: "--nfe"}
    with looking(run, f"looking at what is missing of the comparison of {run.name}", typed):
        # The other keys are those of all samplers, which are looked at one by one.
        where, size = place(run, cluster, [text for text in overrides if text.startswith("cluster.")], allow_plugin)
        (step,) = steps_of(run, checkpoint, remark)
        made = evals.make(run, asked, step, overrides, shards)
    for text in (
        *(options.as_typed(text, typed, run) for text in made.left_out),
        *division(run, made.plan.requests, shards),
    ):
        remark(text)
    if dry_run:
        show_plan(run, made)
        return
    require_may_change(run.path, "Nothing was evaluated")
    outcome = start(run, made.plan, where, size, max_parallel)
    stays = follow or where.blocks or not (outcome.running or outcome.started)
    if not stays and not as_json:
        say_where(run, made.plan, outcome)
        return
    works = [Evaluation(run.evals / request.id) for request in made.requests]
    if stays and not all(work.is_done for work in works):
        follow_works_of(run, works, made.sweep.id)
    raise typer.Exit(show_samplers(run, made, as_json, csv, plot, waited=stays))
