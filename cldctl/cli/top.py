"""`cldctl top`: a live screen of runs."""

import importlib.util
import sys
from typing import Annotated

import typer

from cld_core.errors import UsageError
from cldctl.show.console import err, out

from . import options


def top(
    everything: Annotated[bool, typer.Option("--all", help="Include runs that ended over a week ago.")] = False,
    state: options.StateFilter = None,
    since: options.Since = None,
    tags: options.TagFilter = None,
    user: options.UserFilter = None,
    group: options.GroupFilter = None,
    directory: options.RunsDir = None,
) -> None:
    """Watch runs, and act on them with keys: logs, resume, cancel, sample, report. `?` lists the keys.

    Example: cldctl top --since 2d
    """
    from cldctl.runs import selection

    which = selection.selection(state, since, tags or (), user, group)
    if not (out.is_terminal and sys.stdin.isatty()):
        raise UsageError("`cldctl top` draws on a terminal, and this is not one. Use `cldctl status`.")
    if importlib.util.find_spec("textual") is None:
        raise UsageError("`cldctl top` needs textual, which is not installed. Install it: pip install 'cldctl[top]'")
    from cldctl.top.app import Top

    app = Top(options.runs_dir(directory), which, everything=everything)
    app.run()
    for line in app.left_over():
        err.print(line)
    if app.return_code:
        raise typer.Exit(1)
