"""`cldctl bench`: comparisons of one checkpoint's samplers, as one array of evaluations."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import UsageError
from cld_core.evaluation import registry
from cld_core.evaluation.evaluation import Evaluation
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.atomic import write_text
from cld_core.shards.request import require_few
from cldctl.show.console import err, out
from cldctl.show.progress import Working

from . import completing, helping, starting
from .options import (
    AllowPlugin,
    Checkpoint,
    ClusterOfRun,
    Follow,
    RunsDir,
    Shards,
    as_typed,
    check_output,
    find_run,
    listed_nfe,
    named_as_typed,
    one_run,
    refuse_twice,
    runs_dir,
)

if TYPE_CHECKING:
    from cldctl.evals.samplers import Asked, Comparison

app = typer.Typer(cls=helping.Group, help="Compare what can be done with one checkpoint.", no_args_is_help=True)

_MOST_SEEDS = 1000


@app.callback()
def group() -> None:
    """Compare what can be done with one checkpoint."""


@app.command(cls=helping.Command)
def samplers(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | KEY=VALUE",
            help="A run (default: the newest), and keys of eval, sampling and cluster that hold for all samplers.",
            autocompletion=completing.runs_and_overrides,
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
            autocompletion=completing.metrics_of_samples,
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Samples per seed; default: eval.samples.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST_SEEDS, help="Repetitions with new noise; default: 4 for toys, 1 for images."),
    ] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=KEY=VALUE,...]",
            help="Compare only this sampler, or add one with these keys of sampling; can be repeated.",
            autocompletion=completing.samplers,
        ),
    ] = None,
    checkpoint: Checkpoint = "last",
    shards: Shards = None,
    max_parallel: Annotated[
        int | None, typer.Option("--max-parallel", min=1, help="Tasks that may run at once.")
    ] = None,
    cluster: ClusterOfRun = None,
    follow: Follow = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the samplers and start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of tables.")] = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="File for all numbers, published ones included, ending in .csv.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="File for the picture, ending in .png.")] = None,
    allow_plugin: AllowPlugin = False,
    directory: RunsDir = None,
) -> None:
    """Compare samplers of one checkpoint at equal numbers of network evaluations.

    They run as one array of evaluations. Running it again computes only what is missing, and shows the results.

    Example: cldctl bench samplers --nfe 10,20,50 --metric w2,flow-distance --samples 10000 --follow

    Example: cldctl bench samplers --sampler exponential --sampler fine=method=exponential,order=2,corrector=false
    """
    from cldctl.evals import samplers as evals

    check_output(csv, (".csv",), "numbers are", "--csv")
    check_output(plot, (".png",), "pictures are", "--plot")
    if checkpoint == "all":
        raise UsageError("samplers of one checkpoint are compared: --checkpoint last or STEP.")
    if shards is not None:
        require_few(shards)
    name, overrides = one_run(words)
    if samples is not None:
        refuse_twice("--samples", ["eval.samples"], overrides)
        overrides.append(f"eval.samples={samples}")
    settings, numbers = evals.chosen(sampler or ()), _numbers(nfe)
    run = find_run(name, runs_dir(directory))
    wanted = registry.parse_metrics(metric, "--metric", evals.comparing(run.recipe()))
    metrics, usual = evals.suited(run.recipe(), wanted)
    asked = evals.Asked(metrics=metrics, settings=settings, nfe=numbers, seeds=seeds or usual)
    # The other keys are those of all samplers, which are looked at one by one.
    of_jobs = [text for text in overrides if text.startswith("cluster.")]
    where, size = starting.place(run, cluster, of_jobs, allow_plugin)
    made = _planned(run, asked, checkpoint, overrides, shards)
    if dry_run:
        _list(run, made)
        return
    require_may_change(run.path, "Nothing was evaluated")
    outcome = starting.started(run, made.plan, where, size, max_parallel)
    stays = follow or where.blocks or not (outcome.running or outcome.started)
    if not stays and not as_json:
        starting.say_where(run, made.plan, outcome)
        return
    raise typer.Exit(_results(run, made, _Output(as_json, csv, plot), wait=stays))


@dataclass(frozen=True)
class _Output:
    as_json: bool
    csv: Path | None
    plot: Path | None


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of evaluations that ``--nfe`` lists.

    Raises:
        UsageError: one is not a number of evaluations that some sampler takes, or is given twice.
    """
    numbers, (least, most) = listed_nfe(text, "10,20,50"), _bounds()
    for one in numbers:
        if not least <= one <= most:
            raise UsageError(f"--nfe: samplers take {least} to {most:,} network evaluations, not {one}. Change it.")
    return numbers


def _bounds() -> tuple[int, int]:
    """The fewest and the most network evaluations that samplers with fixed steps take."""
    from dataclasses import fields

    from cld_core.recipe.sampling import FixedStepSpec

    bounds = next(entry for entry in fields(FixedStepSpec) if entry.name == "nfe").metadata["bounds"]
    return int(bounds["ge"]), int(bounds["le"])


def _planned(
    run: RunFolder, asked: "Asked", checkpoint: str, overrides: Sequence[str], shards: int | None
) -> "Comparison":
    """The comparison to compute; settings that cannot be computed are named on stderr."""
    from cldctl.evals import samplers as evals

    (step,) = starting.steps_of(run, checkpoint)
    typed = {evals.NFE: "--nfe"}
    with Working(f"looking at what is missing of the comparison of {run.name}"), named_as_typed(typed, run):
        made = evals.make(run, asked, step, overrides, shards)
    for text in made.left_out:
        err.print(as_typed(text, typed, run), markup=False, style="yellow")
    starting.say_division(run, made.plan, shards)
    return made


def _list(run: RunFolder, made: "Comparison") -> None:
    """What would be computed."""
    from cldctl.show.tables import table

    names = made.sweep.axes[0].values
    columns = {"sampler": names, "settings": [made.asked.settings[name] for name in names]}
    out.print(table(columns, wraps="settings"))
    nfe = ", ".join(map(str, made.asked.nfe))
    text = f"{', '.join(made.asked.metrics)} at {nfe} evaluations; {made.asked.seeds} seeds"
    out.print(f"{run.name}, step {made.requests[0].checkpoint_step}: {text}", markup=False)
    out.print(f"{len(made.requests)} evaluations, of which nothing was started", markup=False)


def _results(run: RunFolder, made: "Comparison", output: _Output, *, wait: bool) -> int:
    """Show the results, if ``wait`` after waiting for them; returns the exit code."""
    from cldctl.evals import compared_samplers
    from cldctl.hints import command
    from cldctl.show.evaluations import samplers
    from cldctl.show.follow import follow_works_of, say_files, statuses_of

    works = [Evaluation(run.evals / request.id) for request in made.requests]
    watch = wait and not all(work.is_done for work in works)
    if watch and (code := follow_works_of(run, works, made.sweep.id)):
        return code
    statuses = statuses_of(works)
    missing = [entry["id"] for entry in statuses if entry["state"] != "FINISHED"]
    if output.as_json:
        found = compared_samplers.to_json(run, made.sweep, made.asked.settings)
        typer.echo(json.dumps({**found, "left_out": made.left_out, "noisy": made.noisy}, indent=1))
    else:
        out.print(samplers(run, made.sweep, statuses))
        if made.noisy:
            out.print(f"-  draws noise, and so has no distance from the flow: {', '.join(made.noisy)}", markup=False)
    if missing:
        see = command(f"status {run.name}", run)
        err.failure(f"{len(missing)} of {len(statuses)} evaluations are not complete; see `{see}`")
        return 1 if wait else 0
    if not output.as_json:
        say_files(run, made.sweep)
    _write(run, made, output)
    return 0


def _write(run: RunFolder, made: "Comparison", output: _Output) -> None:
    """The files of ``--csv`` and ``--plot``."""
    from cldctl.evals import compared_samplers

    if output.csv is not None:
        write_text(output.csv, compared_samplers.to_table(run, made.sweep))
        err.print(str(output.csv), markup=False, no_wrap=True)
    if output.plot is not None:
        from cldctl.evals.plot import plot
        from cldctl.evals.table import keys_of, rows

        table = rows(run, made.sweep)
        plot(output.plot, made.sweep, table, keys_of(table), run.name)
        err.print(str(output.plot), markup=False, no_wrap=True)
