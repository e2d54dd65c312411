"""`cldctl report`: a run as one HTML page, or an index over the runs of a group, or over all runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import NotFoundError, UsageError
from cldctl.show.console import err, out
from cldctl.show.progress import Working

from . import completion
from .options import RunsDir, check_output, find_run, group_named, runs_dir

if TYPE_CHECKING:
    from cld_core.run.groups import Group


def report(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN | GROUP",
            help="A run's name or folder, or a group for an index over its runs; default: the newest run.",
            autocompletion=completion.runs,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Write an index over all runs instead.")] = False,
    pages: Annotated[
        bool,
        typer.Option("--pages", help="Of an index: also write the pages of its runs that are missing or out of date."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            help="Default: report.html in the run folder; of a group index-GROUP.html, --all: index.html.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow-links", help="Also read folders that links lead out of the run to.")
    ] = False,
    directory: RunsDir = None,
) -> None:
    """Write one self-contained page: verdict, best results, samples, curves, attempts, sweeps, recipe.

    Example: cldctl report -o report.html

    Example: cldctl report --all --pages
    """
    check_output(output, (".html", ".htm"), "reports are")
    if everything and name is not None:
        raise UsageError(f"--all writes an index over all runs, not a page of {name}. Leave one of them out.")
    root = runs_dir(directory)
    if everything and not root.is_dir():
        raise NotFoundError(f"there are no runs in {root.absolute()}. Start one: `cldctl submit toy_demo`.")
    group = None if name is None else group_named(name, root)
    is_complete = True
    if everything or group is not None:
        if pages:
            is_complete = _pages(root, group, follow)
        target = _index(root, output, group, follow)
    elif pages:
        raise UsageError("--pages writes the pages of many runs. Add --all or the name of a group, or leave it out.")
    else:
        target = _page(name, root, output, follow)
    out.print(str(output or target.absolute()), markup=False, no_wrap=True)
    if not is_complete:
        raise typer.Exit(1)


def _page(name: str | None, root: Path, output: Path | None, follow: bool) -> Path:
    from cld_core.ownership import require_may_change
    from cld_core.run.atomic import write_text
    from cldctl.page import freshness
    from cldctl.page.one_run import page

    run = find_run(name, root)
    if output is None:
        require_may_change(run.path, "Its report was not written; use -o FILE.html")
    with Working(f"making the report of {run.name}", announced=True):
        if output is None:
            return freshness.write(run, lambda: page(run, follow=follow))
        write_text(output.absolute(), page(run, follow=follow))
        return output


def _pages(root: Path, group: "Group | None", follow: bool) -> bool:
    """Write the pages of the runs that need it, before the index, which links to them; whether none failed."""
    from cldctl.page import all_pages

    with Working(f"making the pages of the runs in {root}", announced=True) as working:
        written = all_pages.write(
            root, lambda done, total, name: working.at(done, total, name), group=group, follow=follow
        )
    err.print(f"{written.number:,} {'page' if written.number == 1 else 'pages'} written")
    for name, problem in written.problems.items():
        err.failure(f"{name}: {problem}", style="red")
    return not written.problems


def _index(root: Path, output: Path | None, group: "Group | None", follow: bool) -> Path:
    from cld_core.run.atomic import write_text
    from cldctl.page.many_runs import page

    target = output or root / ("index.html" if group is None else f"index-{group.name}.html")
    with Working(f"making the index of {root if group is None else group.name}", announced=True):
        write_text(target.absolute(), page(root, target.absolute().parent, group=group, follow=follow))
    return target
