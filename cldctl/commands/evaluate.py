"""`cldctl eval`: what a checkpoint is worth, in shards."""

from typing import Annotated

import typer

from cld_core.errors import NotFoundError, UsageError
from cld_core.run import RunFolder
from cld_core.run.atomic import read_json
from cldctl.ui.console import err, out

from .options import ClusterOption, Follow, RunsDir, chosen_cluster, find_run, one_run, runs_dir


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
    checkpoint: Annotated[str, typer.Option(metavar="last|STEP", help="Which checkpoint.")] = "last",
    max_parallel: Annotated[
        int | None, typer.Option("--max-parallel", min=1, help="Tasks of the array that may run at once.")
    ] = None,
    cluster: ClusterOption = None,
    follow: Follow = False,
    directory: RunsDir = None,
) -> None:
    """Evaluate a checkpoint of a run. Typed again it computes only what is missing.

    Example: cldctl eval --fid --elbo --samples 50000 --shards 16 --follow sampling.method=exponential sampling.nfe=50
    """
    from cld_core.evaluation.request import METRICS, EvalRequest, draws_samples
    from cld_core.recipe import with_overrides
    from cld_core.recipe.plugin import with_paths
    from cldctl.cluster import launch
    from cldctl.cluster.state import eval_status

    flags = {"fid": fid, "kid": kid, "isc": isc, "prc": prc, "elbo": elbo, "loss": loss}
    metrics = tuple(metric for metric in METRICS if flags[metric])
    if not metrics:
        raise UsageError(f"nothing to evaluate: add {', '.join(f'--{metric}' for metric in METRICS)}.")
    name, overrides = one_run(words)
    run = find_run(name, runs_dir(directory))
    if samples is not None:
        overrides.append(f"eval.{'samples' if draws_samples(metrics) else 'points'}={samples}")
    _only_evaluation_keys(overrides)
    recipe = with_overrides(run.recipe(), with_paths(overrides), str(run.recipe_file))
    step = _step(run, checkpoint)
    pieces = shards or recipe.cluster.world_size
    request = EvalRequest.of(recipe, metrics, step, pieces)
    path = run.evals / request.id
    there = read_json(path / "request.json")
    if there is not None and shards is not None and there["shards"] != request.shards:
        err.print(f"{request.id} was begun in {there['shards']} shards and goes on in them")
    look, _ = launch.look_at([run])
    row = eval_status(path, look) if there is not None else None
    where = chosen_cluster(cluster)
    if row is not None and row["state"] in ("RUNNING", "PENDING"):
        err.print(f"{request.id} is being computed already")
    elif row is not None and row["state"] == "FINISHED":
        err.print(f"{request.id} is complete already")
    else:
        request.save(run)
        job = launch.evaluate(run, request.id, where, recipe.cluster, parallel=max_parallel)
        err.print(f"evaluation [bold]{request.id}[/] of {run.name}, job {job.job_id} ({where})", soft_wrap=True)
    finished = eval_status(path, launch.look_at([run])[0])["state"] == "FINISHED"
    if follow or finished or where == "debug":
        from cldctl.ui.follow import follow_evaluations

        raise typer.Exit(follow_evaluations(run, (request.id,)))
    out.print(request.id, markup=False)
    err.print(f"next:\n  cldctl status {run.name}\n  cldctl logs {run.name} --eval {request.id} -f", soft_wrap=True)


def _only_evaluation_keys(overrides: list[str]) -> None:
    for text in overrides:
        if text.split(".")[0] not in ("eval", "sampling", "cluster"):
            key = text.split("=")[0]
            raise UsageError(f"'{key}' is no key of an evaluation. Those of eval, sampling and cluster can be changed.")


def _step(run: RunFolder, checkpoint: str) -> int:
    steps = run.checkpoint_steps()
    if not steps:
        raise NotFoundError(
            f"{run.name} has no checkpoint to evaluate yet. Train it first: `cldctl resume {run.name}`."
        )
    if checkpoint == "last":
        return steps[-1]
    if not checkpoint.isdigit() or int(checkpoint) not in steps:
        there = ", ".join(map(str, steps))
        raise NotFoundError(f"{run.name} has no checkpoint '{checkpoint}'. There are: {there}; or say 'last'.")
    return int(checkpoint)
