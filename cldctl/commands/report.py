"""`cldctl report`: a run as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from cldctl.ui.console import out

from .options import Run, RunsDir, check_output, find_run, runs_dir


def report(
    name: Run = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.html", help="Default: in the run folder.")
    ] = None,
    directory: RunsDir = None,
) -> None:
    """Write one self-contained page: curves, samples, evaluations, sweeps, attempts, recipe.

    Example: cldctl report -o report.html
    """
    check_output(output, (".html", ".htm"), "reports are")
    from cld_core.ownership import require_may_change
    from cld_core.run.atomic import write_text
    from cldctl.page.html import page
    from cldctl.runs import survey
    from cldctl.runs.status import status_of

    run = find_run(name, runs_dir(directory))
    if output is None:
        require_may_change(run.path, "Its report was not written; use -o FILE.html")
    target = (output or run.path / "report.html").absolute()
    write_text(target, page(run, status_of(run, survey.of_runs([run], max_age_s=survey.TO_LOOK_S))))
    out.print(str(output or target), markup=False, soft_wrap=True)
