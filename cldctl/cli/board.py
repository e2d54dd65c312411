"""`cldctl board`: TensorBoard on some runs."""

from typing import Annotated

import typer

from cldctl.show.console import err, out

from . import completing
from .options import RunsDir, find_run, find_runs_or_group, runs_dir


def board(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | GROUP",
            help="Whose curves to show; default: the newest run.",
            autocompletion=completing.runs,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of this machine; default: 6006, or a free one.")
    ] = None,
    directory: RunsDir = None,
) -> None:
    """Start TensorBoard on runs, and print its address. It serves this machine only; stop it with Ctrl-C.

    Example: cldctl board toy-0102-101112-ab12 toy-0102-101530-cd34
    """
    from cldctl.runs import board as policy

    root = runs_dir(directory)
    chosen = find_runs_or_group(runs, root) if runs else [find_run(None, root)]
    for run in chosen:
        if not (run.tensorboard.is_dir() and any(run.tensorboard.iterdir())):
            err.print(f"{run.name} has no curves yet; they will appear", style="yellow")
    with policy.tensorboard(chosen, port) as running:
        with err.status("starting TensorBoard"):
            running.wait_until_ready()
        out.print(running.url)
        err.print("from your own machine:")
        err.print(running.tunnel, no_wrap=True)
        err.print("Ctrl-C ends it", style="dim")
        running.stay()
