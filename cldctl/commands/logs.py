"""`cldctl logs`: what a run's processes printed."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cld_core.errors import CldError, NotFoundError, UsageError
from cld_core.small_files import opened
from cld_core.texts import printable
from cldctl.ui.console import err

from .options import Run, RunsDir, find_run, runs_dir

if TYPE_CHECKING:
    from cldctl.runs.logs import Log

# The end of a log that is shown: nobody reads more, and a file may be larger than the disk.
MOST_BYTES = 64 * 2**20
_LINE_BYTES = 2**20


def logs(
    name: Run = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and print new output.")] = False,
    rank: Annotated[int, typer.Option(help="Which process.")] = 0,
    attempt: Annotated[int | None, typer.Option(help="Which attempt; default: the newest job.")] = None,
    evaluation: Annotated[str | None, typer.Option("--eval", metavar="ID", help="Of an evaluation.")] = None,
    shard: Annotated[int | None, typer.Option("--shard", metavar="N", help="The process of this shard of it.")] = None,
    directory: RunsDir = None,
) -> None:
    """Print the log of a run: first what the process printed, then its errors.

    Example: cldctl logs -f --rank 1
    """
    from cldctl.runs.logs import of_evaluation, of_training

    run = find_run(name, runs_dir(directory))
    if shard is not None and evaluation is None:
        raise UsageError("--shard goes with --eval: a training has no shards.")
    log = of_training(run, attempt, rank) if evaluation is None else of_evaluation(run, evaluation, shard, rank)
    if log.note is not None:
        err.print(log.note, style="yellow", markup=False, soft_wrap=True)
    if not log.files() and not follow:
        ranks = log.ranks()
        known = f"There are ranks {', '.join(ranks)}." if ranks else "The job has not begun; try -f."
        where = f"rank {log.rank} of job {log.job.job_id} in {log.job.logs}"
        raise NotFoundError(f"{run.name}: no log of {where}. {known}")
    _print(log, follow)


def _print(log: "Log", follow: bool) -> None:
    read: dict[Path, int] = {}
    while True:
        is_last = not follow or not log.is_growing()
        for file in log.files():
            read[file] = _show(file, read.get(file))
        if is_last:
            return
        time.sleep(0.3)


def _show(file: Path, since: int | None) -> int:
    """Print what is in a log behind ``since`` bytes, at most `MOST_BYTES` at first; returns its size."""
    target = err.file if file.suffix == ".err" else None
    try:
        with opened(file) as stream:
            if since is None:
                since = max(0, os.fstat(stream.fileno()).st_size - MOST_BYTES)
                if since:
                    text = f"the first {since:,} bytes of {file} are not shown"
                    err.print(text, style="yellow", markup=False, soft_wrap=True)
            stream.seek(since)
            while line := stream.readline(_LINE_BYTES):
                # What a process printed must not steer the terminal of whoever looks at it.
                typer.echo(printable(line.decode(errors="replace"), keep="\n\t\r"), nl=False, file=target)
            return stream.tell()
    except OSError as error:
        raise CldError(f"{file}: the log cannot be read ({error.strerror}). Look at the file itself.") from error
