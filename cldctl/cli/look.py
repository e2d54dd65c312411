"""Commands that show runs: `status`, `top`, `logs`, `why`, `usage`, `board`, `report`."""

import contextlib
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer import Argument, Option

from cld_core.errors import NotFoundError, UsageError
from cld_core.sanitize import printable
from cldctl.show.console import Working, err, out

from . import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cld_core.run import RunFolder
    from cld_core.run.groups import Group

# Options of `logs` that contradict each other, and why.
_NOT_TOGETHER = {
    ("--rank", "--all-ranks"): "one rank or all of them",
    ("--rank", "--failed"): "--failed finds the rank itself",
    ("--all-ranks", "--failed"): "--failed shows one rank",
    ("--failed", "--follow"): "an attempt that failed writes nothing more",
    ("--failed", "--eval"): "--failed is about attempts of a training",
    ("--attempt", "--eval"): "an evaluation has no attempts; use --shard",
    ("--all-ranks", "--eval"): "the tasks of an evaluation are named by --shard",
}
# Seconds between two looks for new output of logs.
_EVERY_S = 0.3
# More rows than this are written with a line each: indenting them would take most of the time.
_MANY = 50


def status(
    names: list[str] | None = Argument(
        None, metavar="RUN | GROUP", help="Names; default: all recent runs."
    ),
    everything: bool = Option(
        False, "--all", help="Include runs that ended over a week ago; show all rows."
    ),
    state: str | None = options.STATE,
    since: str | None = options.SINCE,
    tags: list[str] | None = options.TAGS,
    user: str | None = options.USER,
    group: str | None = options.GROUP,
    sort: str = Option(
        "created",
        metavar="KEY",
        help="name, created, updated, step, loss or state; the last rows are shown.",
    ),
    reverse: bool = Option(False, help="Reverse the order."),
    fresh: bool = Option(False, help="Read every run again, also those that are over."),
    watch: bool = Option(False, help="On a terminal: show again every second."),
    as_json: bool = options.AS_JSON,
    root: Path = options.RUNS_DIR,
) -> None:
    """Show runs: state, progress, rate, loss, checkpoints, attempts, evaluations.

    Example: cldctl status --state RUNNING,FAILED --since 7d --sort loss
    """
    from cld_core.run.groups import Group
    from cldctl.runs import selection
    from cldctl.runs.index import Index
    from cldctl.show import runs as shown

    if watch and as_json:
        raise UsageError(
            "--watch does not go with --json, which prints one document. Run it again in a loop."
        )
    if watch and not out.is_terminal:
        raise UsageError(
            "--watch redraws a terminal, and stdout is not one. Leave it out, or run `status` in a "
            "loop."
        )
    which = selection.selection(state, since, tags or (), user, group)
    selection.in_order([], sort)
    named = options.find_all(names or (), root)
    groups = [entry.name for entry in named if isinstance(entry, Group)]
    runs = options.runs_of(named)
    query = shown.Query(Index(root, fresh=fresh), which, everything, runs, groups, sort, reverse)
    if watch:
        shown.watch(query)
    elif as_json:
        look = query.look()
        if look.listing.answers.remark is not None:
            err.print(look.listing.answers.remark, style="yellow")
        rows = [row.to_dict() for row in look.rows]
        if len(rows) > _MANY:
            typer.echo("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
        else:
            typer.echo(json.dumps(rows, indent=1))
    else:
        shown.show(query)


def top(
    everything: bool = Option(False, "--all", help="Include runs that ended over a week ago."),
    state: str | None = options.STATE,
    since: str | None = options.SINCE,
    tags: list[str] | None = options.TAGS,
    user: str | None = options.USER,
    group: str | None = options.GROUP,
    root: Path = options.RUNS_DIR,
) -> None:
    """Watch runs, and resume, cancel, sample or report them with keys, which `?` lists.

    Example: cldctl top --since 2d
    """
    from cldctl.runs import selection

    which = selection.selection(state, since, tags or (), user, group)
    if not (out.is_terminal and sys.stdin.isatty()):
        raise UsageError(
            "`cldctl top` draws on a terminal, and this is not one. Use `cldctl status`."
        )
    if importlib.util.find_spec("textual") is None:
        raise UsageError(
            "`cldctl top` needs textual, which is not installed. Install it: pip install "
            "'cldctl[top]'"
        )
    from cldctl.top.app import Top

    app = Top(root, which, everything=everything)
    app.run()
    for line in app.left_over():
        err.print(line)
    if app.return_code:
        raise typer.Exit(1)


def logs(
    name: str | None = options.RUN,
    follow: bool = Option(False, "--follow", "-f", help="Stay and print new output."),
    rank: int | None = Option(None, help="Which process; default: 0."),
    all_ranks: bool = Option(
        False, help="Every process in one stream, ordered by time; each line begins with its rank."
    ),
    attempt: int | None = Option(None, help="Which attempt; default: the newest job."),
    failed: bool = Option(
        False, help="The rank that failed first, of the last attempt that failed."
    ),
    tail: int | None = Option(
        None, "--tail", "-n", metavar="N", min=0, help="The last N lines of each file."
    ),
    evaluation: str | None = Option(
        None, "--eval", metavar="ID", help="Of an evaluation; the beginning of its id will do."
    ),
    shard: int | None = Option(None, metavar="N", help="The process of this shard of it."),
    root: Path = options.RUNS_DIR,
) -> None:
    """Print the log of a run: first what the process printed, then its errors.

    Example: cldctl logs --failed --tail 20
    """
    from cldctl.runs.logs import LogReader, failed_log, find_log

    is_set = {
        "--rank": rank is not None,
        "--all-ranks": all_ranks,
        "--failed": failed,
        "--attempt": attempt is not None,
        "--eval": evaluation is not None,
        "--follow": follow,
    }
    for (first, second), reason in _NOT_TOGETHER.items():
        if is_set[first] and is_set[second]:
            raise UsageError(f"{first} does not go with {second}: {reason}. Leave one out.")
    if shard is not None and evaluation is None:
        raise UsageError("--shard goes with --eval: a training has no shards.")

    def warn(text: str) -> None:
        err.print(text, style="yellow")

    run = options.find_run(name, root)
    if failed:
        log, what = failed_log(run, attempt)
        err.print(what, style="dim")
    else:
        log = find_log(run, attempt=attempt, evaluation=evaluation, shard=shard, rank=rank)
    if log.note is not None:
        warn(log.note)
    if not follow and not (log.all_ranks() if all_ranks else log.files()):
        raise log.missing(run)
    reader = LogReader(log, all_ranks=all_ranks, tail=tail, notify=warn)
    is_last = False
    while not is_last:
        is_last = not (follow and log.is_growing())
        for line, is_error in reader.new_lines():
            # The output of a process must not control the terminal.
            text = printable(line.decode(errors="replace"), keep="\n\t\r")
            typer.echo(text, nl=False, file=err.file if is_error else None)
        if not is_last:
            time.sleep(_EVERY_S)


def why(
    name: str | None = options.RUN, as_json: bool = options.AS_JSON, root: Path = options.RUNS_DIR
) -> None:
    """Explain a run on one screen: attempts, the rank that failed first, why it waits, what to do.

    Example: cldctl why
    """
    from cld_core.run import find_runs
    from cld_core.run.folder import FormatError, meant
    from cldctl.runs import why as policy
    from cldctl.show.runs import explanation

    try:
        run = options.find_run(name, root)
    except FormatError:
        # A damaged run is explained as far as possible; without a name, the newest run is meant.
        run = find_runs(root)[-1] if name is None else meant(name, root)
    why = policy.why(run)
    if as_json:
        typer.echo(json.dumps(why.to_dict(), indent=1))
    else:
        # Uncut: a command that is wider than the screen stays whole.
        out.print(explanation(why), crop=False)


def usage(
    names: list[str] | None = Argument(
        None, metavar="RUN | GROUP", help="Names of runs or groups; default: all runs."
    ),
    since: str | None = Option(
        None, metavar="DURATION|DATE", help="Only what was used since: 30m, 12h, 7d, 2026-11-01."
    ),
    as_json: bool = options.AS_JSON,
    root: Path = options.RUNS_DIR,
) -> None:
    """Show the hours of training runs: used, lost to interruptions and crashes, waiting, goodput.

    docs/usage.md explains the numbers.
    Example: cldctl usage --since 7d
    """
    from cld_core.run import find_runs
    from cldctl.runs.selection import moment
    from cldctl.runs.usage import SILENT_S, Folder
    from cldctl.show.tables import usage_table

    begin = 0.0 if since is None else moment(since)
    runs = options.runs_of(options.find_all(names, root)) if names else find_runs(root)
    folder = Folder.of(runs, since=begin)
    for problem in folder.problems:
        err.print(problem, style="yellow")
    if as_json:
        about = {"since": begin or None, "of": "trainings", "silent_s": SILENT_S}
        typer.echo(json.dumps({**about, **folder.to_dict()}, indent=1))
    elif not folder.runs:
        err.print(f"no runs in {root.absolute()}. Start one: cldctl submit toy_demo")
    else:
        out.print(usage_table(folder))


def board(
    names: list[str] | None = Argument(
        None, metavar="RUN | GROUP", help="Whose curves to show; default: the newest run."
    ),
    port: int | None = Option(
        None, min=1, max=65535, help="Port of this machine; default: 6006, or a free one."
    ),
    root: Path = options.RUNS_DIR,
) -> None:
    """Start TensorBoard on runs for this machine only, and print its address. Ctrl-C stops it.

    Example: cldctl board toy-0102-101112-ab12 toy-0102-101530-cd34
    """
    from cldctl.page.curves import stay, tensorboard, tunnel

    runs = (
        options.runs_of(options.find_all(names, root)) if names else [options.find_run(None, root)]
    )
    for run in runs:
        if not (run.tensorboard.is_dir() and any(run.tensorboard.iterdir())):
            err.print(f"{run.name} has no curves yet; they will appear", style="yellow")
    with contextlib.ExitStack() as stack:
        with err.status("starting TensorBoard"):
            serving = stack.enter_context(tensorboard(runs, port))
        out.print(f"http://localhost:{serving}/")
        err.print("from your own machine:")
        err.print(tunnel(serving), no_wrap=True)
        err.print("Ctrl-C ends it", style="dim")
        stay()


def report(
    names: list[str] | None = Argument(
        None,
        metavar="RUN | GROUP",
        help="Runs by name or folder; several runs, or a group, are compared on one page; "
        "default: the newest run.",
    ),
    everything: bool = Option(False, "--all", help="Write the table of `status --all` as a page."),
    output: Path | None = Option(
        None,
        "--output",
        "-o",
        metavar="FILE.html",
        help="Default: report.html in the run folder; of a group comparison-GROUP.html, of several "
        "runs comparison.html, --all: index.html.",
    ),
    follow: bool = Option(
        False, "--follow-links", help="Also read folders that links lead out of the run to."
    ),
    root: Path = options.RUNS_DIR,
) -> None:
    """Write one self-contained page: verdict, results, samples, curves, attempts, sweeps, recipe.

    Example: cldctl report -o report.html

    Example: cldctl report first second

    Example: cldctl report --all
    """
    from cld_core.run import RunFolder

    options.check_output(output, (".html", ".htm"), "reports are")
    if everything:
        if names:
            raise UsageError(
                f"--all writes a table of all runs, not a page of {names[0]}. Leave one of them "
                f"out."
            )
        if not root.is_dir():
            raise NotFoundError(
                f"there are no runs in {root.absolute()}. Start one: `cldctl submit toy_demo`."
            )
        target = _index_page(root, output)
    else:
        named = options.find_all(names or (), root) or [options.find_run(None, root)]
        if len(named) == 1 and isinstance(named[0], RunFolder):
            target = _page(named[0], output, follow)
        else:
            target = _comparison_page(named, root, output, follow)
    out.print(str(output or target.absolute()), no_wrap=True)


def _page(run: "RunFolder", output: Path | None, follow: bool) -> Path:
    from cld_core.files import write_text
    from cld_core.ownership import require_may_change
    from cldctl.page.report import page, page_of

    if output is None:
        require_may_change(run.path, "Its report was not written; use -o FILE.html")
    with Working(f"making the report of {run.name}", announced=True):
        target = output or page_of(run)
        write_text(target.absolute(), page(run, follow=follow))
    return target


def _index_page(root: Path, output: Path | None) -> Path:
    from cld_core.files import write_text
    from cldctl.page.report import index_page
    from cldctl.runs import survey
    from cldctl.runs.index import Index

    target = (output or root / "index.html").absolute()
    with Working(f"making the page of the runs in {root.absolute().name}", announced=True):
        listing = Index(root).look(max_age_s=survey.TO_LOOK_S)
        notes = [str(root.absolute()), *listing.remarks]
        write_text(target, index_page(listing.rows[::-1], root, target.parent, notes))
    return target


def _comparison_page(
    chosen: "Sequence[RunFolder | Group]", root: Path, output: Path | None, follow: bool
) -> Path:
    from cld_core.files import write_text
    from cld_core.run.groups import Group
    from cldctl.page.report import comparison_page
    from cldctl.runs import survey
    from cldctl.runs.index import RunListing
    from cldctl.runs.status import status_or_reason

    runs = options.runs_of(chosen)
    groups = [entry for entry in chosen if isinstance(entry, Group)]
    answers = survey.of_runs(runs, max_age_s=survey.TO_LOOK_S)
    listing = RunListing([status_or_reason(run, answers) for run in runs], answers)
    if len(chosen) == 1:
        title = f"Runs of the group {groups[0].name}"
        file = f"comparison-{groups[0].name}.html"
    else:
        title = f"{len(runs)} runs compared"
        file = "comparison.html"
    target = (output or root / file).absolute()
    notes = [str(root.absolute()), *listing.remarks]
    with Working(f"making the page: {title}", announced=True):
        page = comparison_page(title, listing.rows, target.parent, groups, notes, follow=follow)
        write_text(target, page)
    return target
