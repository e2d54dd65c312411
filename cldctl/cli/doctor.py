"""`cldctl doctor`: whether this machine and this cluster are fit."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cld_core.errors import CldError
from cldctl.show.console import err, out
from cldctl.show.progress import Working

from .options import ClusterOption, RunsDir, runs_dir

if TYPE_CHECKING:
    from rich.table import Table

    from cld_core.recipe import Recipe
    from cldctl.clusters.records import Check

_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def doctor(
    cluster: ClusterOption = None,
    job: Annotated[bool, typer.Option("--job/--no-job", help="Look from a node, by a small job.")] = True,
    partition: Annotated[str | None, typer.Option(help="Only this partition; default: all.")] = None,
    account: Annotated[str | None, typer.Option(help="Account of the small job.")] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, max=86400, help="How long the small job may take.")
    ] = 120,
    gpu: Annotated[bool, typer.Option("--gpu", help="Check this machine's GPU, too: the quick checks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    directory: RunsDir = None,
) -> None:
    """Check Python, torch, GPUs, the runs folder, data; on Slurm what preemption and time limits will do to a run.

    Exit code 0 if nothing fails, 1 if something does, 4 if the scheduler does not answer.

    Example: cldctl doctor --partition gpu
    """
    from cld_core.run import find_runs
    from cldctl import card, clusters, machine
    from cldctl.clusters.records import DoctorOptions
    from cldctl.jobs.specs import measured_saves
    from cldctl.runs import home

    root = runs_dir(directory)
    where = home.default() if cluster is None else clusters.find(cluster)
    with Working("checking this machine: torch, folders, data") as working:
        asked = DoctorOptions(partition=partition, job=job, account=account, wait_s=wait, say=working.phase)
        checks = list(machine.checks(root, list(_recipes())))
        working.phase(f"asking the cluster ({where.name})")
        checks += where.checks(root, asked, measured_saves(find_runs(root)))
        if gpu:
            working.phase("checking the GPU: the quick checks")
            checks += card.checks()
    verdicts = {check.verdict for check in checks}
    worst = next((verdict for verdict in ("fail", "warn") if verdict in verdicts), "ok")
    if as_json:
        typer.echo(json.dumps({"verdict": worst, "checks": [check.to_dict() for check in checks]}, indent=1))
    else:
        _show(checks)
    if any((check.name, check.verdict) == (where.name, "fail") for check in checks):
        raise typer.Exit(4)
    raise typer.Exit(1 if worst == "fail" else 0)


def _show(checks: "list[Check]") -> None:
    """A table, if no cell of it breaks; else lines, so that paths and commands can be copied."""
    table = _table(checks)
    if out.measure(table, options=out.options.update(width=10**6)).maximum <= out.width:
        out.print(table)
        return
    for check in checks:
        out.print(Text(f"{check.verdict:<5}", _STYLE[check.verdict]), check.name)
        for text in filter(None, (check.found, check.advice)):
            out.print(f"      {text}")


def _table(checks: "list[Check]") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("what to do", overflow="fold")
    for check in checks:
        verdict = Text(check.verdict, style=_STYLE[check.verdict])
        table.add_row(Text(check.name), verdict, Text(check.found), Text(check.advice))
    return table


def _recipes() -> "Iterator[tuple[str, Recipe]]":
    from cld_core.recipe import load
    from cldctl.lookup import recipe_files

    for name, file in recipe_files().items():
        try:
            yield name, load(file)
        except CldError as error:
            err.print(str(error), style="yellow", markup=False)
