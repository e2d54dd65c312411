"""`cldctl why`: why a run is where it is, and what to do."""

import json
from typing import Annotated

import typer

from cld_core.run import find_runs
from cld_core.run.folder import FormatError
from cld_core.run.lookup import meant
from cldctl.show.console import out

from .options import Run, RunsDir, find_run, runs_dir


def why(
    name: Run = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    directory: RunsDir = None,
) -> None:
    """Explain a run on one screen: its attempts, the rank that failed first, why it waits, and what to type next.

    Example: cldctl why
    """
    from cldctl.runs import why as policy
    from cldctl.show.why import screen

    root = runs_dir(directory)
    try:
        run = find_run(name, root)
    except FormatError:
        # A damaged run is explained as far as possible; without a name, the newest run is meant.
        run = find_runs(root)[-1] if name is None else meant(name, root)
    found = policy.why(run)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        # Uncut: a command that is wider than the screen stays whole.
        out.print(screen(found), crop=False)
