"""Removing runs, or checkpoints of runs that are over, unless something of them is alive."""

import contextlib
import errno
import itertools
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import CldError, LeaseHeldError, UsageError
from cld_core.files import sync_folder
from cld_core.ownership import is_mine, require_may_change, user_name
from cld_core.run import RunFolder
from cld_core.run import checkpoints as checkpoint_files
from cld_core.run.evaluations import unnamed_rows
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cld_core.run.lease import Lease, held_message, newest, seems_alive
from cld_core.run.state import OVER, is_locked
from cld_core.run.work import Work, evaluations_of, tunings_of
from cldctl import locks

from . import survey
from .selection import command
from .status import RunStatus, status_of, status_or_reason
from .survey import Answers

# A run that is being removed, or whose removal was interrupted.
_LEFT = re.compile(r"\.[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.[0-9a-f]{8}\.removed")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Removal:
    """A run that may be removed.

    Attributes:
        status: its status now.
        size: the bytes of its files.
    """

    run: RunFolder
    status: RunStatus
    size: int


def plan(runs: Sequence[RunFolder]) -> list[Removal]:
    """What removing these runs means. Nothing is changed.

    Raises:
        CldError: a run belongs to another user, or cannot be removed completely.
        SchedulerAway: a cluster that would know whether one is alive does not answer.
        UsageError: one is alive.
    """
    for run in runs:
        _require_removable(run)
    answers = survey.of_runs(runs)
    return [
        Removal(run, require_over(run, answers, "Nothing was removed"), size_of([run.path]))
        for run in runs
    ]


def remove(removal: Removal) -> None:
    """Remove a run, unless it has come to life since it was looked at.

    It disappears at once, under a hidden name; files that an interruption leaves are removed by
    `clear_left`.

    Raises:
        CldError: the run is alive, or another command is starting a job of it.
    """
    run = removal.run
    group = Group.of(run)
    with alone(run, "It was not removed") as check:
        hidden = run.path.with_name(f".{run.name}.{secrets.token_hex(4)}.removed")
        check()
        run.path.rename(hidden)
        sync_folder(hidden.parent)
    shutil.rmtree(hidden)
    if group is not None:
        _remove_empty(group)


@contextlib.contextmanager
def alone(run: RunFolder, otherwise: str) -> Iterator[Callable[[], None]]:
    """Own a run of which nothing is alive, so that no job of it is started and nothing trains it.

    Args:
        otherwise: what is not done if something is alive; a sentence without its full stop.

    Yields:
        A function to call before anything is removed; it raises an error if another process has
        taken the run over.

    Raises:
        CldError: something is alive, or that cannot be found out.
    """
    with locks.only_one(run.path):
        answers = survey.fresh_answers(run, survey.TO_LOOK_S)
        require_over(run, answers, otherwise)
        gone = {
            job.job_id for job, is_settled in _jobs(run) if not answers.may_live(job, is_settled)
        }
        try:
            lease = Lease.acquire(run.leases, job_id="cldctl rm", gone=gone)
        except LeaseHeldError as error:
            raise UsageError(f"{error} {otherwise}.") from error
        except OSError as error:
            if error.errno not in _FULL:
                raise _unknown_owner(run, error, otherwise) from error
            # No lease can be written on a full disk, where room is to be made.
            yield lambda: None
            return
        try:
            yield lease.check
        finally:
            lease.release()


def _unknown_owner(run: RunFolder, error: OSError, otherwise: str) -> CldError:
    return CldError(
        f"{run.leases}: whether something writes into this run cannot be found out "
        f"({error.strerror or error}). {otherwise}. Make the folder readable and writable, and "
        f"try again."
    )


def _remove_empty(group: Group) -> None:
    """Remove the folder of a group without runs, unless a command starts some at this moment."""
    if not group.path.is_dir() or not is_mine(group.path):
        return
    if not is_locked(group.path) and not group.runs():
        shutil.rmtree(group.path, ignore_errors=True)


def clear_left(root: Path) -> None:
    """Remove what interrupted removals of this user left under ``root``."""
    for name in os.listdir(root):
        path = root / name
        if _LEFT.fullmatch(name) and not path.is_symlink() and is_mine(path):
            shutil.rmtree(path, ignore_errors=True)


def require_over(run: RunFolder, answers: Answers, otherwise: str) -> RunStatus:
    """The status of a run of which nothing is alive: no process, no job, no evaluation.

    Args:
        otherwise: what is not done if it is; a sentence without its full stop.

    Raises:
        SchedulerAway: a cluster does not answer.
        UsageError: it is alive.
    """
    jobs = _jobs(run)
    answers.require_about(jobs, otherwise)
    status = status_or_reason(run, answers) if run.is_damaged else status_of(run, answers)
    cancel = f"Wait, or end it first with `{command(f'cancel {run.name}', run)}`"
    if status.state not in OVER:
        raise UsageError(f"{run.name} is {status.state.lower()}. {otherwise}. {cancel}.")
    if live := [job.job_id for job, is_settled in jobs if answers.may_live(job, is_settled)]:
        raise UsageError(
            f"{run.name}: job {', '.join(live)} may still run or wait. {otherwise}. {cancel}."
        )
    try:
        _, holder = newest(run.leases)
    except OSError as error:
        raise _unknown_owner(run, error, otherwise) from error
    if seems_alive(run.leases):
        raise UsageError(f"{held_message(run.path, holder or {})} {otherwise}.")
    if is_locked(run.path):
        raise UsageError(
            f"{run.name}: another cldctl starts a job of it at this moment. {otherwise}. Try again."
        )
    return status


def _jobs(run: RunFolder) -> list[tuple[JobRef, bool]]:
    """The jobs of a run; of a damaged one, those that its ledger still names."""
    jobs: list[tuple[JobRef, bool]] = []
    with contextlib.suppress(*((OSError, CldError) if run.is_damaged else ())):
        jobs.extend(survey.jobs_of(run))
    return jobs


def size_of(paths: Iterable[Path]) -> int:
    """The bytes of files, and of all files in folders, without following links.

    A file with several names counts once.
    """
    sizes = {}
    for path in paths:
        files = [path] if path.is_file() else path.rglob("*")
        for file in files:
            status = file.lstat()
            if not stat.S_ISDIR(status.st_mode):
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def _require_removable(run: RunFolder) -> None:
    """Refuse a run of another user, a link to one, and one that holds what this user cannot
    remove.

    Raises:
        CldError
    """
    if run.path.is_symlink():
        raise UsageError(
            f"{run.path}: it is a link to a run. Nothing was removed. Name the run itself."
        )
    require_may_change(run.path, "Nothing was removed")
    if not os.access(run.path.parent, os.W_OK | os.X_OK):
        raise CldError(
            f"{run.path.parent}: you may not write into it. Nothing was removed. Ask its owner."
        )
    inner = [os.path.join(parent, name) for parent, names, _ in os.walk(run.path) for name in names]
    for folder in (str(run.path), *inner):
        if not os.path.islink(folder) and not os.access(folder, os.W_OK | os.X_OK | os.R_OK):
            name = user_name(os.lstat(folder).st_uid)
            raise CldError(
                f"{folder}: you may not remove what is in it, because it belongs to {name}. "
                f"Nothing was removed. Ask them to remove it first."
            )


@dataclass(frozen=True)
class Pruning:
    """The checkpoints and rows of a run that are removed, and the checkpoints that stay.

    Attributes:
        checkpoints: by step, ascending, the files of checkpoints that are removed.
        keep: by step, why a checkpoint is kept.
        averages: files of snapshots of averages that are removed.
        rows: folders of rows that no evaluation names any more.
    """

    run: RunFolder
    checkpoints: dict[int, list[Path]]
    keep: dict[int, str]
    averages: list[Path]
    rows: list[Path]

    @property
    def parts(self) -> dict[str, list[Path]]:
        """What is removed, in words, and its files and folders; empty if nothing is."""
        steps = ", ".join(map(str, self.checkpoints))
        parts = {
            f"steps {steps}": list(itertools.chain(*self.checkpoints.values())),
            "all snapshots of averages": self.averages,
            "rows that no evaluation names any more": self.rows,
        }
        return {words: paths for words, paths in parts.items() if paths}


def plan_pruning(
    runs: Sequence[RunFolder], keep_every: int | None, averages: bool = False
) -> list[Pruning]:
    """What pruning these runs means. Nothing is changed. The last checkpoint of each is read and
    verified.

    Args:
        keep_every: keep the checkpoints of multiples of this step, besides the milestones of the
            recipe.
        averages: remove the snapshots of averages, too. The checkpoints keep their own averages.

    Raises:
        CldError: a run belongs to another user, or its checkpoints cannot be read.
        SchedulerAway: a cluster that would know whether one is alive does not answer.
        UsageError: one is alive, or has an evaluation that still needs the averages.
    """
    for run in runs:
        require_may_change(run.path, "Nothing was removed")
    answers = survey.of_runs(runs)
    prunings = []
    for run in runs:
        require_over(run, answers, "Nothing was removed")
        keep = _kept(run, keep_every)
        checkpoints = {
            step: checkpoint_files.files_of(run.checkpoint_file(step))
            for step in run.listed_steps()
            if step not in keep
        }
        snapshots = _averages(run) if averages else []
        prunings.append(Pruning(run, checkpoints, keep, snapshots, unnamed_rows(run)))
    return prunings


def prune(pruning: Pruning) -> None:
    """Remove the checkpoints and rows, unless the run has come to life since.

    Raises:
        CldError: the run is alive, or another command is starting a job of it.
        OSError: a file cannot be removed.
    """
    run = pruning.run
    with alone(run, "Nothing was removed") as check:
        needed = run.steps_to_evaluate()
        for step in pruning.checkpoints:
            if step not in needed:
                check()
                checkpoint_files.remove(run, step)
        for file in pruning.averages:
            check()
            file.unlink(missing_ok=True)
        unnamed = set(unnamed_rows(run))
        for folder in pruning.rows:
            if folder in unnamed:
                check()
                shutil.rmtree(folder)


def _averages(run: RunFolder) -> list[Path]:
    """The snapshots of averages.

    Raises:
        UsageError: an evaluation or tuning needs them.
    """
    lengths: dict[Work, float | None] = {}
    lengths |= {work: work.request.ema.length for work in evaluations_of(run)}
    lengths |= {work: work.request.ema_length for work in tunings_of(run)}
    for work, length in lengths.items():
        if length is not None and not work.is_done:
            raise UsageError(
                f"{run.name}: {work.name} still needs the snapshots of averages. "
                f"Run `{work.command}` again to finish it, or leave out --averages."
            )
    return checkpoint_files.snapshot_files(run)


def _kept(run: RunFolder, keep_every: int | None) -> dict[int, str]:
    """The steps whose checkpoints are kept, and why."""
    last, _ = checkpoint_files.newest_good(run)
    history = run.ledger.history()
    recipe = run.recipe()
    evaluated = {work.request.checkpoint_step for work in evaluations_of(run)}
    evaluated |= run.steps_to_evaluate()
    tuned = {work.request.checkpoint_step for work in tunings_of(run)}
    keep: dict[int, str] = {}
    for step in run.listed_steps():
        if step == last:
            keep[step] = "the last"
        elif last is None or step > last:
            keep[step] = "after the last intact one"
        elif step in evaluated:
            keep[step] = "evaluated"
        elif step in tuned:
            keep[step] = "a sampler was tuned to it"
        elif step == history.imported_step:
            keep[step] = "imported"
        elif recipe.train.is_milestone(step):
            keep[step] = "a milestone of the recipe"
        elif keep_every is not None and step % keep_every == 0:
            keep[step] = f"a multiple of {keep_every}"
    return keep
