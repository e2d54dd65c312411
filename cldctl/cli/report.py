"""`cldctl report`: a run as one HTML page, or an index over the runs of a group, or over all runs."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import NotFoundError, UsageError
from cldctl.show.console import err, out
from cldctl.show.progress import Working

from . import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cld_core.run.groups import Group
    from cldctl.runs.status import RunStatus


def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | GROUP",
            help="Runs by name or folder, of which several share a page; a group alone is an index over its runs; "
            "default: the newest run.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Write an index over all runs instead.")] = False,
    pages: Annotated[
        bool, typer.Option(help="Of several runs: also write their own pages that are missing or out of date.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            help="Default: report.html in the run folder; of a group index-GROUP.html, of several runs "
            "comparison.html, --all: index.html.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow-links", help="Also read folders that links lead out of the run to.")
    ] = False,
    directory: options.RunsDir = None,
) -> None:
    """Write one self-contained page: verdict, best results, samples, curves, attempts, sweeps, recipe.

    Example: cldctl report -o report.html

    Example: cldctl report first second

    Example: cldctl report --all --pages
    """

    options.check_output(output, (".html", ".htm"), "reports are")
    names = names or []
    if everything and names:
        raise UsageError(f"--all writes an index over all runs, not a page of {names[0]}. Leave one of them out.")
    root = options.runs_dir(directory)
    if everything and not root.is_dir():
        raise NotFoundError(f"there are no runs in {root.absolute()}. Start one: `cldctl submit toy_demo`.")
    groups = [group for name in names if (group := options.group_named(name, root)) is not None]
    is_complete = True
    if everything or groups or len(names) > 1:
        target, is_complete = _page_of_many(names, groups, root, output, pages, follow)
    elif pages:
        raise UsageError("--pages writes the pages of many runs. Add --all or the name of a group, or leave it out.")
    else:
        target = _page(names[0] if names else None, root, output, follow)
    out.print(str(output or target.absolute()), no_wrap=True)
    if not is_complete:
        raise typer.Exit(1)


def _page(name: str | None, root: Path, output: Path | None, follow: bool) -> Path:
    from cld_core.ownership import require_may_change
    from cld_core.run.atomic import write_text
    from cldctl.page.one_run import page, page_of

    run = options.find_run(name, root)
    if output is None:
        require_may_change(run.path, "Its report was not written; use -o FILE.html")
    with Working(f"making the report of {run.name}", announced=True):
        target = output or page_of(run)
        write_text(target.absolute(), page(run, follow=follow))
    return target


def _page_of_many(
    names: list[str], groups: "list[Group]", root: Path, output: Path | None, pages: bool, follow: bool
) -> tuple[Path, bool]:
    """Write a comparison, or an index; where it is, and whether all pages that were asked for were written."""
    from cld_core.run.atomic import write_text
    from cldctl.page import many_runs
    from cldctl.runs import survey
    from cldctl.runs.index import Index
    from cldctl.runs.status import status_or_reason

    which, notes = None, [str(root.absolute())]
    if names:
        runs = options.find_runs_or_group(names, root)
        answers = survey.of_runs(runs, max_age_s=survey.TO_LOOK_S)
        rows = [status_or_reason(run, answers) for run in runs]
        title, file = f"{len(runs)} runs compared", "comparison.html"
    else:
        found = Index(root).look(max_age_s=survey.TO_LOOK_S)
        answers, rows, which = found.answers, found.rows[::-1], "--all"
        title, file = f"Runs in {root.absolute().name}", "index.html"
        notes += [f"{name}: {reason}" for name, reason in found.closed.items()]
    if len(names) == 1:
        name, rows = groups[0].name, rows[::-1]
        title, file, which = f"Runs of the group {name}", f"index-{name}.html", shlex.quote(name)
    notes += [answers.remark] if answers.remark else []
    is_complete = not pages or _pages(rows, follow)
    target = (output or root / file).absolute()
    with Working(f"making the page: {title}", announced=True):
        page = many_runs.page(title, rows, target.parent, groups=groups, which=which, notes=notes, follow=follow)
        write_text(target, page)
    return output or target, is_complete


def _pages(rows: "Sequence[RunStatus]", follow: bool) -> bool:
    """Write the pages of the runs that need it, before the page that links to them; whether none failed."""
    from cldctl.page import many_runs

    with Working(f"making the pages of {len(rows)} runs", announced=True) as working:
        written, problems = many_runs.write_pages(rows, working.at, follow=follow)
    err.print(f"{written:,} {'page' if written == 1 else 'pages'} written")
    for name, problem in problems.items():
        err.failure(f"{name}: {problem}", style="red")
    return not problems
