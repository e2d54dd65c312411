"""Where the output of a process of a run is."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cld_core.errors import NotFoundError
from cld_core.run import RunFolder
from cld_core.run.attempt import Attempt
from cld_core.run.events import JobRef, TurnedAway
from cld_core.run.folder import is_name
from cld_core.run.groups import GROUPS
from cld_core.run.history import History
from cld_core.run.lease import newest
from cldctl import clusters
from cldctl.clusters import job_logs

from . import survey
from .log_parts import Part, cut
from .works import started_work

# Causes after which a job does not start again.
_FOR_GOOD = ("finished", "cancelled")
_LOG = re.compile(r".+_(?P<rank>[0-9]{1,9})_log\.(?:out|err)")


@dataclass(frozen=True)
class Log:
    """The output of one rank of a job; ``note`` is what has to be known about the job.

    Attributes:
        restart: the start of the job whose output is meant; None for all of them.
        is_newest: no later start appends to the same log.
    """

    job: JobRef
    rank: int
    note: str | None = None
    restart: int | None = None
    is_newest: bool = True
    run: RunFolder | None = None

    def files(self) -> list[Path]:
        """Output and errors; empty before the job has begun."""
        return clusters.find(self.job.cluster).log_files(self.job, self.rank)

    def parts(self) -> list[Part]:
        """What the start that is meant has written: output and errors.

        Raises:
            OSError: a file cannot be read.
        """
        files = self.files()
        if self.restart is None:
            return [Part(file) for file in files]
        return [cut(file, self.restart) for file in files]

    def missing(self, run: RunFolder) -> NotFoundError:
        """The error if there are no `files`; says of which ranks there are some."""
        ranks = self.ranks()
        known = f"There {'is rank' if len(ranks) == 1 else 'are ranks'} {', '.join(ranks)}."
        where = f"rank {self.rank} of job {self.job.job_id} in {self.job.logs}"
        return NotFoundError(f"{run.name}: no log of {where}. {known if ranks else 'The job has not begun; try -f.'}")

    def all_ranks(self) -> list["Log"]:
        """The logs of every rank of the job, in their order."""
        logs = (replace(self, rank=int(rank)) for rank in self.ranks())
        return [log for log in logs if log.files()]

    def ranks(self) -> list[str]:
        """The ranks whose logs are in the same folder."""
        names = (file.name for file in Path(self.job.logs).glob("*_log.*"))
        return sorted({match["rank"] for name in names if (match := _LOG.fullmatch(name))}, key=int)

    def is_growing(self) -> bool:
        """Whether the job is alive, as far as is known, and still writes what is shown."""
        if not self.is_newest or (self.run is not None and _is_over(self.run, self.job)):
            return False
        return not survey.ask([self.job], max_age_s=survey.TO_LOOK_S).of(self.job).is_gone


def of_training(run: RunFolder, attempt: int | None, rank: int) -> Log:
    """The log of an attempt, or of the newest job that was not turned away.

    Raises:
        NotFoundError: there is no such attempt, or no job at all.
    """
    history = run.ledger.history()
    of_start: dict[str, Any] = {}
    jobs = {event.job.job_id: event.job for event in history.submitted}
    if attempt is None:
        if not jobs:
            raise NotFoundError(f"{run.name} was never submitted, so it has no log. Try `cldctl resume {run.name}`.")
        job = (history.jobs or history.submitted)[-1].job
    else:
        made = {entry.attempt: entry for entry in history.attempts}
        if attempt not in made:
            existing = ", ".join(map(str, made)) or "none"
            raise NotFoundError(f"{run.name} has no attempt {attempt}. It has: {existing}.")
        job_id = str(made[attempt].job_id)
        # An attempt that was started by hand, with torchrun, belongs to no submitted job.
        if job_id not in jobs and not is_name(job_id):
            raise NotFoundError(f"{run.name}: attempt {attempt} names no job, so it has no log here. Choose another.")
        job = jobs.get(job_id) or JobRef(cluster=clusters.default().name, job_id=job_id)
        of_start = _start(history, made[attempt])
    event = history.last_of.get(job.job_id)
    note = f"job {job.job_id} did not train: {event.reason}" if isinstance(event, TurnedAway) else None
    return Log(replace(job, logs=str(job_logs.moved(run.logs, job.logs))), rank, note, run=run, **of_start)


def _start(history: History, attempt: Attempt) -> dict[str, Any]:
    """What a `Log` has to know to show one start of a job."""
    is_newest = history.last is not None and history.last.attempt == attempt.attempt
    return {"restart": attempt.restart, "is_newest": is_newest}


def of_evaluation(run: RunFolder, name: str, shard: int | None, rank: int) -> Log:
    """The log of the newest job of an evaluation or a tuning, or of the newest that computes a shard of it.

    Args:
        name: its id, or the beginning of that if no other evaluation that was started begins so.

    Raises:
        NotFoundError: there is no such evaluation or shard, or no job of it.
        UsageError: several begin like that.
    """
    work = started_work(run, name)
    name, jobs, last = work.name, work.ledger.history().jobs, work.request.shards - 1
    if shard is not None and not 0 <= shard <= last:
        raise NotFoundError(f"{name} has no shard {shard}. It has: 0 to {last}.")
    mine = [event for event in jobs if shard is None or shard in (event.shards or ())]
    if not mine:
        text = f"no job of {name} computes shard {shard}, which was complete before it"
        raise NotFoundError(f"{text}. Choose another shard.")
    job = mine[-1].job
    # The logs lie in the folder of the first evaluation or of the sweep. The run may have been moved or copied.
    own = Path(job.logs).parent.name
    if not is_name(own):
        raise NotFoundError(f"{run.name}: job {job.job_id} has no log here. Choose another.")
    # Those of a whole group are beside the runs.
    home = run.path if Path(job.logs).parent.parent.name == GROUPS else work.folder.parent / own
    there = job_logs.moved(home / "logs", job.logs)
    if shard is None:
        # Of a pool of tasks that share a job, ``rank`` is the process.
        return Log(replace(job, logs=str(there), process=0), rank)
    return Log(replace(job, logs=str(there)), 0)


def _is_over(run: RunFolder, job: JobRef) -> bool:
    """Whether a job of a run has trained to its end, or was cancelled, and writes nothing more into its folder."""
    last = run.ledger.history().last
    if last is None or last.job_id != job.job_id or last.cause not in _FOR_GOOD:
        return False
    try:
        return newest(run.leases)[1] is None
    except OSError:
        return False
