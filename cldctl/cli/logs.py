"""`cldctl logs`: what a run's processes printed."""

from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import NotFoundError, UsageError
from cld_core.run import RunFolder
from cldctl.show.console import err

from . import completing
from .options import Run, RunsDir, find_run, runs_dir

if TYPE_CHECKING:
    from cldctl.runs.logs import Log


def logs(
    name: Run = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and print new output.")] = False,
    rank: Annotated[int | None, typer.Option(help="Which process; default: 0.")] = None,
    all_ranks: Annotated[
        bool,
        typer.Option(
            "--all-ranks", help="Every process in one stream, ordered by time; each line begins with its rank."
        ),
    ] = False,
    attempt: Annotated[int | None, typer.Option(help="Which attempt; default: the newest job.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="The rank that failed first, of the last attempt that failed.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", metavar="N", min=0, help="The last N lines of each file.")
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="ID",
            help="Of an evaluation; the beginning of its id will do.",
            autocompletion=completing.evaluations,
        ),
    ] = None,
    shard: Annotated[int | None, typer.Option("--shard", metavar="N", help="The process of this shard of it.")] = None,
    directory: RunsDir = None,
) -> None:
    """Print the log of a run: first what the process printed, then its errors.

    Example: cldctl logs --failed --tail 20
    """
    from cldctl.runs.logs import of_evaluation, of_training
    from cldctl.show.logs import Printer

    _check(evaluation, shard, rank, attempt, all_ranks=all_ranks, failed=failed, follow=follow)
    run = find_run(name, runs_dir(directory))
    if failed:
        log = _failed(run, attempt)
    elif evaluation is None:
        log = of_training(run, attempt, rank or 0)
    else:
        log = of_evaluation(run, evaluation, shard, rank or 0)
    if log.note is not None:
        err.print(log.note, style="yellow", markup=False)
    find = log.all_ranks if all_ranks else lambda: [log]
    if not any(one.files() for one in find()) and not follow:
        raise _missing(run, log)
    printer = Printer(find, merge=all_ranks, tail=tail)
    if follow:
        printer.follow(log.is_growing)
    else:
        printer.show()


def _check(
    evaluation: str | None,
    shard: int | None,
    rank: int | None,
    attempt: int | None,
    *,
    all_ranks: bool,
    failed: bool,
    follow: bool,
) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError
    """
    if shard is not None and evaluation is None:
        raise UsageError("--shard goes with --eval: a training has no shards.")
    given = {
        "--rank": rank is not None,
        "--all-ranks": all_ranks,
        "--failed": failed,
        "--attempt": attempt is not None,
        "--eval": evaluation is not None,
        "--follow": follow,
    }
    apart = {
        ("--rank", "--all-ranks"): "one rank or all of them",
        ("--rank", "--failed"): "--failed finds the rank itself",
        ("--all-ranks", "--failed"): "--failed shows one rank",
        ("--failed", "--follow"): "an attempt that failed writes nothing more",
        ("--failed", "--eval"): "--failed is about attempts of a training",
        ("--attempt", "--eval"): "an evaluation has no attempts; use --shard",
        ("--all-ranks", "--eval"): "the tasks of an evaluation are named by --shard",
    }
    for (first, second), why in apart.items():
        if given[first] and given[second]:
            raise UsageError(f"{first} does not go with {second}: {why}. Leave one out.")


def _failed(run: RunFolder, attempt: int | None) -> "Log":
    """The log of the rank that failed first, which is named on stderr.

    Raises:
        NotFoundError: no attempt failed, or not this one.
    """
    from cldctl.runs.failing import failed_log

    log, what = failed_log(run, attempt)
    err.print(what, style="dim", markup=False)
    return log


_NOT_BEGUN = "The job has not begun; try -f."


def _missing(run: RunFolder, log: "Log") -> NotFoundError:
    ranks = log.ranks()
    is_one = len(ranks) == 1
    known = f"There {'is rank' if is_one else 'are ranks'} {', '.join(ranks)}." if ranks else _NOT_BEGUN
    where = f"rank {log.rank} of job {log.job.job_id} in {log.job.logs}"
    return NotFoundError(f"{run.name}: no log of {where}. {known}")
