"""`cldctl tune`: fit the times and coefficients of a sampler to the network of a run."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cld_core.errors import UsageError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.trust import require_own_plugin
from cld_core.texts import one_line
from cld_core.tuned.request import TuneRequest
from cldctl.show.console import err, out, strong
from cldctl.show.progress import Working

from . import completing, starting
from .options import AllowPlugin, Checkpoint, ClusterOfRun, Follow, RunsDir, find_run, listed_nfe, one_run, runs_dir

if TYPE_CHECKING:
    from cld_core.recipe import Recipe
    from cld_core.tuned.work import Tuning
    from cldctl.clusters.base import Cluster
    from cldctl.runs.tune import Started

# The keys of these sections that have an effect.
_READ = (
    *("sampling.eps", "sampling.denoise", "sampling.guidance", "sampling.guidance_from", "sampling.guidance_to"),
    "eval.batch_size",
)


def tune(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | KEY=VALUE",
            help="A run (default: the newest), and keys of sampling, ema and cluster to change.",
            autocompletion=completing.runs_and_overrides,
        ),
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
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Seed of the noise.")] = 0,
    checkpoint: Checkpoint = "last",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    cluster: ClusterOfRun = None,
    follow: Follow = False,
    allow_plugin: AllowPlugin = False,
    directory: RunsDir = None,
) -> None:
    """Fit a sampler with few network evaluations to the network of a run, for sampling.method=tuned.

    The sampler is fitted to the network's own probability flow, and held-out noise decides whether the fit is kept.
    Running it again shows the result, or continues where it stopped.

    Example: cldctl tune toy-0102-101112-ab12 --nfe 5,7,10 --follow
    """
    from cld_core.tuned.work import Tuning
    from cldctl.runs import home
    from cldctl.runs.tune import start

    numbers, budget_min = listed_nfe(nfe, "5,7,10"), _minutes(budget)
    name, overrides = one_run(words)
    run = find_run(name, runs_dir(directory))
    require_may_change(run.path, "Nothing was tuned")
    where = home.chosen(cluster, run)
    recipe, step = _checkpoint_of(run, overrides, checkpoint, allow_plugin)
    requests = [
        TuneRequest.of(recipe, step, number, points=points, budget_min=budget_min, seed=seed) for number in numbers
    ]
    works = [Tuning(run.tuned / one.id) for one in requests if (run.tuned / one.id / "request.json").exists()]
    done = {work.name for work in works if work.is_done}
    _say_cost(recipe, [request for request in requests if request.id not in done])
    with home.only_one(run.path, where):
        made = start(run, requests, where, recipe.cluster, say=lambda text: err.print(text, markup=False))
    _say(run, made, where)
    works = [Tuning(run.tuned / request.id) for request in requests]
    stay = follow or where.blocks
    if stay and (made.started or made.running):
        from cldctl.show.follow import follow_works_of

        if code := follow_works_of(run, works, f"tuning of {run.name}"):
            raise typer.Exit(code)
    raise typer.Exit(_show(run, works, as_json, stay))


def _checkpoint_of(run: RunFolder, overrides: Sequence[str], wanted: str, allow_plugin: bool) -> "tuple[Recipe, int]":
    """The recipe of a run with the overrides, and the step of an intact checkpoint."""
    from cldctl.evals import plan

    _require_read(overrides)
    recipe = plan.recipe_for_evaluation(run.recipe(), overrides, str(run.recipe_file))
    if not allow_plugin:
        require_own_plugin(run, recipe)
    if wanted == "all":
        raise UsageError("--checkpoint all: a sampler is tuned to one network. Use 'last' or a step.")
    (step,) = starting.steps_of(run, wanted, "tuning to")
    plan.require_average(run, step, recipe.ema.length)
    return recipe, step


def _require_read(overrides: Sequence[str]) -> None:
    """Refuse keys that have no effect on a tuning; those of other sections are refused as for evaluations.

    Raises:
        UsageError: names the keys that have one.
    """
    for text in overrides:
        key = text.partition("=")[0]
        if key.startswith(("sampling.", "eval.")) and key not in _READ:
            raise UsageError(f"'{key}' has no effect on a tuning. Leave it out; there are: {', '.join(_READ)}.")


def _say(run: RunFolder, made: "Started", where: "Cluster") -> None:
    for found, words in ((made.complete, "is already complete"), (made.running, "is already being computed")):
        for one in found:
            err.print(f"{one} {words}", markup=False)
    if made.job is not None:
        text = f"of {run.name}, job {made.job.job_id} ({where.name})"
        err.print(strong("tuning ", ", ".join(made.started)), text)


def _minutes(text: str) -> float | None:
    """The minutes of ``--budget``; None for no limit.

    Raises:
        UsageError
    """
    if text.strip() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        fix = "Write a number of them, or none to set no limit"
        raise UsageError(f"--budget {one_line(text)}: that is not a number of minutes. {fix}.") from None


def _say_cost(recipe: "Recipe", todo: Sequence[TuneRequest]) -> None:
    """Say how many evaluations of the network are to come, if any are."""
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


def _show(run: RunFolder, works: "Sequence[Tuning]", as_json: bool, waited: bool) -> int:
    """Print the results that exist; returns the exit code."""
    from cldctl.hints import command

    entries = [_entry(work) for work in works]
    missing = [entry["id"] for entry in entries if "kept" not in entry]
    if as_json:
        typer.echo(json.dumps({"run": run.name, "tunings": entries}, indent=1))
    else:
        _table(entries)
    if missing and waited:
        for name in missing:
            err.failure(f"{name} is not complete; see {run.tuned / name / 'logs'}, and run the same command again")
        return 1
    sizes = [entry["nfe"] for entry in entries if "kept" in entry]
    text = f"sample {run.name} --method tuned --nfe {sizes[-1]}" if sizes else f"status {run.name}"
    if missing:
        err.print(f"logs: {run.tuned / missing[0] / 'logs'}; run it again with --follow to watch", markup=False)
    else:
        err.print(f"next:\n  {command(text, run)}", markup=False)
    return 0


def _entry(work: "Tuning") -> dict[str, Any]:
    solution = work.solution
    entry: dict[str, Any] = {"id": work.name, "nfe": work.request.nfe, "step": work.request.checkpoint_step}
    if solution is None:
        return entry
    found = {"kept": solution.kept, "rms": dict(solution.rms), "digest": solution.digest}
    return {**entry, **found, "file": str(work.folder / "solution.json"), "about": dict(solution.about)}


def _table(entries: Sequence[dict[str, Any]]) -> None:
    from cldctl.show.tables import table

    done = [entry for entry in entries if "kept" in entry]
    if not done:
        for entry in entries:
            out.print(entry["id"], markup=False)
        return
    stages = ("untuned", "grid", "coefficients")
    columns = {
        "NFE": [str(entry["nfe"]) for entry in done],
        "step": [str(entry["step"]) for entry in done],
        "kept": [entry["kept"] for entry in done],
        **{stage: [f"{entry['rms'].get(stage, float('nan')):.4g}" for entry in done] for stage in stages},
        "seconds": [f"{entry['about'].get('seconds', 0.0):.0f}" for entry in done],
    }
    out.print(table(columns))
    err.print("rms distance from the network's own flow on held-out noise, per coordinate")
