"""`cldctl eval`: what checkpoints are worth, in shards; sweeps over settings; runs side by side."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cldctl.ui.console import err, out

from .options import (
    ClusterOption,
    Follow,
    RunsDir,
    chosen_cluster,
    find_run,
    one_run,
    refuse_twice,
    runs_dir,
    split_runs,
)

if TYPE_CHECKING:
    from cldctl.evals.plan import Plan
    from cldctl.evals.start import Begun


def evaluate(
    words: Annotated[list[str] | None, typer.Argument(metavar="RUN | KEY=VALUE")] = None,
    fid: Annotated[bool, typer.Option("--fid", help="Frechet distance to the training images.")] = False,
    kid: Annotated[bool, typer.Option("--kid", help="Kernel distance to the training images.")] = False,
    isc: Annotated[bool, typer.Option("--isc", help="Inception Score.")] = False,
    prc: Annotated[bool, typer.Option("--prc", help="Precision and recall.")] = False,
    elbo: Annotated[bool, typer.Option("--elbo", help="Bound of the negative log-likelihood.")] = False,
    loss: Annotated[bool, typer.Option("--loss", help="Training objective of the test data.")] = False,
    samples: Annotated[
        int | None, typer.Option(min=2, help="Samples, or test data where none are drawn; default: eval.samples.")
    ] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="Pieces; default: one a process.")] = None,
    checkpoint: Annotated[str, typer.Option(metavar="last|all|STEP", help="Which checkpoints.")] = "last",
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=a,b,c", help="A table over settings; once for each key."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show finished results of runs side by side.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --compare: one JSON document.")] = False,
    max_parallel: Annotated[
        int | None, typer.Option("--max-parallel", min=1, help="Tasks of the array that may run at once.")
    ] = None,
    cluster: ClusterOption = None,
    follow: Follow = False,
    directory: RunsDir = None,
) -> None:
    """Evaluate checkpoints of a run. Typed again it computes only what is missing.

    Example: cldctl eval --fid --elbo --samples 50000 --shards 16 --follow sampling.method=exponential sampling.nfe=50
    """
    flags = {"fid": fid, "kid": kid, "isc": isc, "prc": prc, "elbo": elbo, "loss": loss}
    if compare:
        options = {"samples": samples, "shards": shards, "sweep": sweep, "max-parallel": max_parallel}
        given = [name for name, value in {**flags, **options, "cluster": cluster, "follow": follow}.items() if value]
        if given:
            raise UsageError(f"--compare shows finished results and computes none: leave out --{', --'.join(given)}.")
        _compare(words, checkpoint, as_json, directory)
        return
    if as_json:
        raise UsageError("--json goes with --compare. `cldctl status RUN --json` has the results of one run.")
    from cld_core.evaluation.request import METRICS, draws_samples
    from cldctl.cluster import launch
    from cldctl.evals import plan, start
    from cldctl.evals.sweep import parse

    metrics = tuple(metric for metric in METRICS if flags[metric])
    if not metrics:
        raise UsageError(f"nothing to evaluate: add {', '.join(f'--{metric}' for metric in METRICS)}.")
    name, overrides = one_run(words)
    run = find_run(name, runs_dir(directory))
    axes = parse(sweep or [])
    refuse_twice("--sweep", [axis.key for axis in axes], overrides)
    if samples is not None:
        key = f"eval.{'samples' if draws_samples(metrics) else 'points'}"
        refuse_twice("--samples", [key], [*overrides, *(sweep or [])])
        overrides.append(f"{key}={samples}")
    where = chosen_cluster(cluster)
    launch.refuse_slurm_without_it(where)
    resources = plan.settled(run.recipe(), overrides, str(run.recipe_file)).cluster
    steps, damaged = plan.checkpoints(run, checkpoint)
    for entry in damaged:
        err.print(f"passed over: {entry.reason}", markup=False, style="yellow", soft_wrap=True)
    if damaged:
        err.print(f"evaluating step {', '.join(map(str, steps))} of {run.name}")
    made = plan.make(run, metrics, steps, overrides, axes, shards)
    for other, pieces in start.cut_otherwise(run, made.requests) if shards is not None else []:
        err.print(f"{other} was begun in {pieces} shards and goes on in them")
    # What runs in this very process would keep others waiting.
    with launch.only_one(run) if where != "debug" else contextlib.nullcontext():
        begun = start.start(run, made, where, resources, max_parallel)
    _say(run, made, begun, where)
    _show(run, made, begun, follow or where == "debug")


def _say(run: RunFolder, made: "Plan", begun: "Begun", where: str) -> None:
    many = len(made.requests) > 1
    if many:
        parts = [(begun.complete, "complete already"), (begun.running, "being computed"), (begun.started, "started")]
        counts = ", ".join(f"{len(names)} {words}" for names, words in parts if names)
        err.print(f"{len(made.requests)} evaluations of [bold]{run.name}[/]: {counts}", soft_wrap=True)
    for name in () if many else begun.complete:
        err.print(f"{name} is complete already")
    for name in () if many else begun.running:
        err.print(f"{name} is being computed already")
    if begun.job_id is not None:
        which = made.sweep.id if made.sweep is not None else begun.started[0] if not many else "all of them"
        err.print(f"evaluation [bold]{which}[/] of {run.name}, job {begun.job_id} ({where})", soft_wrap=True)


def _show(run: RunFolder, made: "Plan", begun: "Begun", stay: bool) -> None:
    """The results where they are there or waited for; else what to type next."""
    from cldctl.ui.hints import command

    names = tuple(request.id for request in made.requests)
    if stay or not (begun.running or begun.started):
        from cldctl.ui.follow import follow_evaluations

        raise typer.Exit(follow_evaluations(run, names, made.sweep))
    out.print(made.sweep.id if made.sweep is not None else "\n".join(names), markup=False)
    log = command(f"logs {run.name} --eval {(begun.started or begun.running)[0]} -f", run)
    err.print(f"next:\n  {command(f'status {run.name}', run)}\n  {log}", markup=False, soft_wrap=True)


def _compare(words: list[str] | None, checkpoint: str, as_json: bool, directory: Path | None) -> None:
    from cldctl.evals import compare
    from cldctl.ui.compared import compared

    names, overrides = split_runs(words)
    if len(names) < 2 or overrides:
        raise UsageError("--compare takes two or more runs and nothing else: `cldctl eval --compare RUN RUN`.")
    if checkpoint == "all":
        raise UsageError("--compare takes one checkpoint of each run: --checkpoint last or STEP.")
    columns = [compare.column(find_run(name, runs_dir(directory)), checkpoint) for name in names]
    if as_json:
        typer.echo(json.dumps(compare.to_json(columns), indent=1))
        return
    out.print(compared(columns))
    for warning in compare.warnings(columns):
        err.print(warning, markup=False, soft_wrap=True)
    err.print(compare.RULE, markup=False, soft_wrap=True)
