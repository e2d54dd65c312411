"""`cldctl report`: a run as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from cld_core.errors import UsageError
from cldctl.ui.console import out

from .options import Run, RunsDir, find_run, runs_dir


def report(
    name: Run = None,
    output: Annotated[Path | None, typer.Option("-o", metavar="FILE.html", help="Default: in the run folder.")] = None,
    directory: RunsDir = None,
) -> None:
    """Write one self-contained page: curves, samples, evaluations, sweeps, attempts, recipe.

    Example: cldctl report -o report.html
    """
    if output is not None and output.suffix not in (".html", ".htm"):
        raise UsageError(f"-o {output}: the report is an HTML page. End the name in .html.")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"-o {output}: there is no folder {output.absolute().parent}. Make it first.")
    from cld_core.run.atomic import write_text
    from cldctl.cluster import launch
    from cldctl.cluster.state import status_of
    from cldctl.page.html import page

    run = find_run(name, runs_dir(directory))
    look, _ = launch.look_at([run])
    target = (output or run.path / "report.html").absolute()
    write_text(target, page(run, status_of(run, look)))
    out.print(str(output or target), markup=False, soft_wrap=True)
