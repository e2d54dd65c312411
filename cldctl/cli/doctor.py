"""`cldctl doctor`: whether this machine and this cluster are fit."""

import json
from typing import Annotated

import typer

from cldctl.show.console import out
from cldctl.show.progress import Working

from . import options

_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def doctor(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Check its data and FID weights, too.")] = None,
    cluster: options.ClusterOption = None,
    job: Annotated[bool, typer.Option("--job/--no-job", help="Look from a node, by a small job.")] = True,
    partition: Annotated[str | None, typer.Option(help="Only this partition; default: all.")] = None,
    account: Annotated[str | None, typer.Option(help="Account of the small job.")] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, max=86400, help="How long the small job may take.")
    ] = 120,
    gpu: Annotated[bool, typer.Option(help="Check this machine's GPU, too: the quick checks.")] = False,
    as_json: options.AsJson = False,
    directory: options.RunsDir = None,
) -> None:
    """Check Python, torch, GPUs, the runs folder; on Slurm what preemption and time limits will do to a run.

    Exit code 0 if nothing fails, 1 if something does, 4 if the scheduler does not answer.

    Example: cldctl doctor cifar10 --partition gpu
    """
    from rich.text import Text

    from cld_core.recipe import load
    from cld_core.run import find_runs
    from cldctl import card, clusters, machine
    from cldctl.clusters.records import DoctorOptions
    from cldctl.jobs.specs import measured_saves
    from cldctl.lookup import find_recipe
    from cldctl.runs import home

    root = options.runs_dir(directory)
    where = home.default() if cluster is None else clusters.find(cluster)
    wanted = None if recipe is None else load(find_recipe(recipe))
    with Working("checking this machine: torch, folders") as working:
        about = DoctorOptions(partition=partition, job=job, account=account, wait_s=wait, say=working.phase)
        checks = list(machine.checks(root, wanted, where.name))
        working.phase(f"asking the cluster ({where.name})")
        checks += where.checks(root, about, measured_saves(find_runs(root)))
        if gpu:
            working.phase("checking the GPU: the quick checks")
            checks += card.checks()
    verdicts = {check.verdict for check in checks}
    worst = next((verdict for verdict in ("fail", "warn") if verdict in verdicts), "ok")
    if as_json:
        typer.echo(json.dumps({"verdict": worst, "checks": [check.to_dict() for check in checks]}, indent=1))
    else:
        # Nothing is cut, so that paths and commands can be copied.
        for check in checks:
            out.print(Text.assemble((f"{check.verdict:<5}", _STYLE[check.verdict]), f" {check.name}: {check.found}"))
            if check.advice:
                out.print(f"      {check.advice}")
    if any((check.name, check.verdict) == (where.name, "fail") for check in checks):
        raise typer.Exit(4)
    raise typer.Exit(1 if worst == "fail" else 0)
