"""`cldctl tune` and `bench samplers`: fit a sampler to the network of a run, and compare samplers of a checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cld_core.errors import UsageError

from . import completion, options

if TYPE_CHECKING:
    from cld_core.recipe import Recipe
    from cld_core.run import RunFolder
    from cld_core.tuned.request import TuneRequest
    from cld_core.tuned.work import Tuning
    from cldctl.evals.samplers import Comparison


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
    from cldctl.show.follow import follow_works_of

    from .evaluate import remark

    numbers, budget_min = _numbers(nfe, "5,7,10"), _minutes(budget)
    name, overrides = options.one_run(words)
    run = options.find_run(name, options.runs_dir(directory))
    require_may_change(run.path, "Nothing was tuned")
    where = home.chosen(cluster, run)
    recipe, step = checkpoint_of(run, overrides, checkpoint, allow_plugin, remark)
    requests = [TuneRequest.of(recipe, step, one, points=points, budget_min=budget_min, seed=seed) for one in numbers]
    works = [Tuning(run.tuned / request.id) for request in requests]
    done = {work.name for work in works if (work.folder / "request.json").exists() and work.is_done}
    _say_cost(recipe, [request for request in requests if request.id not in done])
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
    if stay and (made.started or made.running) and (code := follow_works_of(run, works, f"tuning of {run.name}")):
        raise typer.Exit(code)
    raise typer.Exit(_show_tunings(run, works, as_json, stay))


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


def _say_cost(recipe: "Recipe", todo: "Sequence[TuneRequest]") -> None:
    """Say how many evaluations of the network are to come, if any are."""
    from cldctl.show.console import err
    from cldctl.show.progress import Working

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


def _show_tunings(run: "RunFolder", works: "Sequence[Tuning]", as_json: bool, waited: bool) -> int:
    """Print the results that exist; returns the exit code."""
    from cldctl.hints import command
    from cldctl.show.console import err, out

    entries = [_entry(work) for work in works]
    missing = [entry["id"] for entry in entries if "kept" not in entry]
    sizes = [entry["nfe"] for entry in entries if "kept" in entry]
    if as_json:
        typer.echo(json.dumps({"run": run.name, "tunings": entries}, indent=1))
    elif sizes:
        _tunings_table(entries)
    else:
        out.print("\n".join(missing), markup=False)
    if missing and waited:
        for name in missing:
            err.failure(f"{name} is not complete; see {run.tuned / name / 'logs'}, and run the same command again")
        return 1
    if missing:
        err.print(f"logs: {run.tuned / missing[0] / 'logs'}; run it again with --follow to watch", markup=False)
    else:
        err.print(f"next:\n  {command(f'sample {run.name} --method tuned --nfe {sizes[-1]}', run)}", markup=False)
    return 0


def _entry(work: "Tuning") -> dict[str, Any]:
    solution = work.solution
    entry: dict[str, Any] = {"id": work.name, "nfe": work.request.nfe, "step": work.request.checkpoint_step}
    if solution is None:
        return entry
    found = {"kept": solution.kept, "rms": dict(solution.rms), "digest": solution.digest}
    return {**entry, **found, "file": str(work.folder / "solution.json"), "about": dict(solution.about)}


def _tunings_table(entries: Sequence[dict[str, Any]]) -> None:
    from cldctl.show.console import err, out
    from cldctl.show.fitting import plain_table

    table = plain_table()
    for heading in ("NFE", "step", "kept", "untuned", "grid", "coefficients", "seconds"):
        table.add_column(heading, no_wrap=True)
    for entry in (entry for entry in entries if "kept" in entry):
        rms = [f"{entry['rms'].get(stage, float('nan')):.4g}" for stage in ("untuned", "grid", "coefficients")]
        seconds = f"{entry['about'].get('seconds', 0.0):.0f}"
        table.add_row(str(entry["nfe"]), str(entry["step"]), entry["kept"], *rms, seconds)
    out.print(table)
    err.print("rms distance from the network's own flow on held-out noise, per coordinate")


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
    from cld_core.ownership import require_may_change
    from cld_core.shards.request import require_few
    from cldctl.evals import samplers as evals
    from cldctl.runs.evaluate import division, place, steps_of
    from cldctl.runs.options import refuse_twice

    from .evaluate import looking, remark, say_where, start

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
        _list(run, made)
        return
    require_may_change(run.path, "Nothing was evaluated")
    outcome = start(run, made.plan, where, size, max_parallel)
    stays = follow or where.blocks or not (outcome.running or outcome.started)
    if not stays and not as_json:
        say_where(run, made.plan, outcome)
        return
    raise typer.Exit(_show_comparison(run, made, as_json, csv, plot, wait=stays))


def _list(run: "RunFolder", made: "Comparison") -> None:
    """What would be computed."""
    from cldctl.show.console import out
    from cldctl.show.fitting import fitted

    names = made.sweep.axes[0].values
    columns = {"sampler": names, "settings": [made.asked.settings[name] for name in names]}
    out.print(fitted(columns, [], (), wraps="settings"))
    nfe = ", ".join(map(str, made.asked.nfe))
    text = f"{', '.join(made.asked.metrics)} at {nfe} evaluations; {made.asked.seeds} seeds"
    out.print(f"{run.name}, step {made.requests[0].checkpoint_step}: {text}", markup=False)
    out.print(f"{len(made.requests)} evaluations, of which nothing was started", markup=False)


def _show_comparison(
    run: "RunFolder", made: "Comparison", as_json: bool, csv: Path | None, plot: Path | None, *, wait: bool
) -> int:
    """Show the results, if ``wait`` after waiting for them, and write the files; returns the exit code."""
    from cld_core.evaluation.evaluation import Evaluation
    from cld_core.run.atomic import write_text
    from cldctl.evals import compared_samplers, table
    from cldctl.evals.plot import plot as draw
    from cldctl.hints import command
    from cldctl.show.console import err, out
    from cldctl.show.follow import follow_works_of, say_files, statuses_of
    from cldctl.show.samplers import compared

    works = [Evaluation(run.evals / request.id) for request in made.requests]
    watch = wait and not all(work.is_done for work in works)
    if watch and (code := follow_works_of(run, works, made.sweep.id)):
        return code
    statuses = statuses_of(works)
    missing = [entry["id"] for entry in statuses if entry["state"] != "FINISHED"]
    if as_json:
        found = compared_samplers.to_json(run, made.sweep, made.asked.settings)
        typer.echo(json.dumps({**found, "left_out": made.left_out, "noisy": made.noisy}, indent=1))
    else:
        out.print(compared(run, made.sweep, statuses))
        if made.noisy:
            out.print(f"-  draws noise, and so has no distance from the flow: {', '.join(made.noisy)}", markup=False)
    if missing:
        see = command(f"status {run.name}", run)
        err.failure(f"{len(missing)} of {len(statuses)} evaluations are not complete; see `{see}`")
        return 1 if wait else 0
    if not as_json:
        say_files(run, made.sweep)
    if csv is not None:
        write_text(csv, compared_samplers.to_table(run, made.sweep))
    if plot is not None:
        rows = table.rows(run, made.sweep)
        draw(plot, made.sweep, rows, table.keys_of(rows), run.name)
    for file in filter(None, (csv, plot)):
        err.print(str(file), markup=False, no_wrap=True)
    return 0
