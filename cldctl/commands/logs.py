"""`cldctl logs`: what a run's processes printed."""

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from cld_core.errors import NotFoundError, UsageError
from cld_core.run import RunFolder
from cldctl.ui.console import err

from .options import Run, RunsDir, find_run, runs_dir

_LOG = re.compile(r"(?P<job>.+)_(?P<rank>\d+)_log\.(?P<stream>out|err)")


def logs(
    name: Run = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and print what comes.")] = False,
    rank: Annotated[int, typer.Option(help="Which process.")] = 0,
    attempt: Annotated[int | None, typer.Option(help="Which attempt; default: the newest job.")] = None,
    evaluation: Annotated[str | None, typer.Option("--eval", metavar="ID", help="Of an evaluation.")] = None,
    shard: Annotated[int | None, typer.Option("--shard", metavar="N", help="Who computes this shard of it.")] = None,
    directory: RunsDir = None,
) -> None:
    """Print the log of a run: first what the process printed, then its errors.

    Example: cldctl logs -f --rank 1
    """
    run = find_run(name, runs_dir(directory))
    if shard is not None and evaluation is None:
        raise UsageError("--shard goes with --eval: a training has no shards.")
    if evaluation is not None:
        folder, job, rank = _place_of_evaluation(run, evaluation, shard, rank)
    else:
        folder, job = _place(run, attempt)
    files = _files(folder, job, rank)
    if not files and not follow:
        ranks = sorted({match["rank"] for file in folder.glob("*_log.*") if (match := _LOG.fullmatch(file.name))})
        there = f"There are ranks {', '.join(ranks)}." if ranks else "The job has not begun; try -f."
        raise NotFoundError(f"{run.name}: no log of rank {rank} of job {job} in {folder}. {there}")
    _print(folder, job, rank, run, follow)


def _place_of_evaluation(run: RunFolder, name: str, shard: int | None, rank: int) -> tuple[Path, str, int]:
    """Folder, job and rank of the newest job of an evaluation, or of the newest that computes a shard of it."""
    from cld_core.run.atomic import read_json

    folder = run.evals / name
    jobs = read_json(folder / "jobs.json") or []
    if not jobs:
        there = ", ".join(path.parent.name for path in run.evals.glob("*/jobs.json")) or "none"
        raise NotFoundError(f"{run.name} has no evaluation {name} that was started. There are: {there}.")
    last = (read_json(folder / "request.json") or {}).get("shards", 1) - 1
    if shard is not None and not 0 <= shard <= last:
        raise NotFoundError(f"{name} has no shard {shard}. There are: 0 to {last}.")
    mine = [job for job in jobs if shard is None or job.get("shards") is None or shard in job["shards"]]
    if not mine:
        raise NotFoundError(f"no job of {name} computes shard {shard}, which was complete before it. Ask for another.")
    job = mine[-1]
    own = folder / job.get("logs", "logs")
    if shard is not None and job.get("ranks"):
        rank = shard % job["ranks"]
    return (own if own.is_dir() else run.logs), str(job["job_id"]), rank


def _place(run: RunFolder, attempt: int | None) -> tuple[Path, str]:
    from cld_core.run import attempts_of

    events = run.ledger.events()
    if attempt is not None:
        made = {entry.attempt: entry for entry in attempts_of(events)}
        if attempt not in made:
            raise NotFoundError(
                f"{run.name} has no attempt {attempt}. There are: {', '.join(map(str, made)) or 'none'}."
            )
        return run.logs, str(made[attempt].job_id)
    jobs = [event for event in events if event["event"] == "submitted"]
    if not jobs:
        raise NotFoundError(f"{run.name} was never submitted, so it has no log. Try `cldctl resume {run.name}`.")
    return run.logs, str(jobs[-1]["job_id"])


def _files(folder: Path, job: str, rank: int) -> list[Path]:
    return [file for stream in ("out", "err") if (file := folder / f"{job}_{rank}_log.{stream}").is_file()]


def _print(folder: Path, job: str, rank: int, run: RunFolder, follow: bool) -> None:
    read: dict[Path, int] = {}
    while True:
        over = not follow or not _running(run, job)
        for file in _files(folder, job, rank):
            with file.open("rb") as stream:
                stream.seek(read.get(file, 0))
                text = stream.read()
                read[file] = stream.tell()
            target = err.file if file.suffix == ".err" else None
            typer.echo(text.decode(errors="replace"), nl=False, file=target)
        if over:
            return
        time.sleep(0.3)


def _running(run: RunFolder, job: str) -> bool:
    from cldctl.cluster import launch

    look, _ = launch.look_at([run])
    return any(str(entry["job_id"]) == job and not look(entry).over for entry in launch.jobs_of(run))
