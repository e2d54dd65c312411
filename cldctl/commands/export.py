"""`cldctl export`: averaged weights and recipe in one file."""

from pathlib import Path
from typing import Annotated

import typer

from cldctl.ui.console import err, out

from .options import AllowPlugin, Checkpoint, Run, RunsDir, check_output, find_run, runs_dir


def export(
    run: Run = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.safetensors", help="Where to write.")
    ] = None,
    checkpoint: Checkpoint = "last",
    allow_plugin: AllowPlugin = False,
    directory: RunsDir = None,
) -> None:
    """Write the averaged weights and the recipe of a checkpoint as safetensors, for `cld_core.load(FILE)`.

    Example: cldctl export cifar10-0102-101112-ab12 -o cifar10.safetensors
    """
    folder = find_run(run, runs_dir(directory))
    target = output or Path(f"{folder.name}.safetensors")
    check_output(target, (".safetensors",), "weights are")

    import cld_core

    model = cld_core.load(folder.path, checkpoint, "cpu", allow_plugin=allow_plugin)
    model.export(target)
    err.print(f"averaged weights of step {model.step} of {folder.name}, {target.stat().st_size / 2**20:.1f} MiB")
    out.print(str(target), markup=False, soft_wrap=True)
