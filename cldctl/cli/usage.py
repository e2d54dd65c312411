"""`cldctl usage`: GPU-hours, how many of them were useful, and the time in the queue."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cld_core.errors import NotFoundError, did_you_mean
from cld_core.run import RunFolder, find_runs
from cldctl.show.console import err, out

from . import completing
from .options import RunsDir, find_run, runs_dir


def usage(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | GROUP", help="Names of runs or groups; default: all runs.", autocompletion=completing.runs
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="DURATION|DATE", help="Only what was used since: 30m, 12h, 7d, 2026-11-01."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    directory: RunsDir = None,
) -> None:
    """Show the hours of training runs: used, lost to interruptions and crashes, waiting, goodput (docs/usage.md).

    Example: cldctl usage --since 7d
    """
    from cldctl.runs import usage as policy
    from cldctl.runs.selection import moment
    from cldctl.runs.usage_of_many import Folder

    begin = 0.0 if since is None else moment(since)
    root = runs_dir(directory)
    runs = find_runs(root)
    chosen: list[RunFolder] = []
    for name in names or []:
        group = [] if "/" in name or RunFolder(root / name).exists else [run for run in runs if _group(run) == name]
        chosen += group or [_run(name, root, runs)]
    folder = Folder.of({run.path: run for run in (chosen if names else runs)}.values(), since=begin)
    for problem in folder.problems:
        err.print(problem, style="yellow", markup=False)
    if as_json:
        typer.echo(json.dumps(_document(folder.to_dict(), begin, policy.SILENT_S), indent=1))
    elif not folder.runs:
        err.print(f"no runs in {root.absolute()}. Start one: cldctl submit toy_demo")
    else:
        from cldctl.show.usage import usage_table

        out.print(usage_table(folder.runs, folder.groups, folder.totals))


def _run(name: str, root: Path, runs: Sequence[RunFolder]) -> RunFolder:
    """The run of a name that no group has.

    Raises:
        NotFoundError: nor has a run; names the nearest of both.
    """
    try:
        return find_run(name, root)
    except NotFoundError:
        if "/" in name:
            raise
        known = dict.fromkeys(str(word) for run in runs for word in (run.name, _group(run)) if word is not None)
        guess = did_you_mean(name, known) or " `cldctl status` lists the existing ones."
        raise NotFoundError(f"no run and no group '{name}' in {root.absolute()}.{guess}") from None


def _group(run: RunFolder) -> Any:
    return run.identity().get("group")


def _document(folder: dict[str, Any], since: float, silent_s: float) -> dict[str, Any]:
    return {"since": since or None, "of": "trainings", "silent_s": silent_s, **folder}
