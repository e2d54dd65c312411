"""Removing runs for good: what may be removed, how much it is, and a way that an interruption cannot spoil."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.errors import CldError, LeaseHeldError, UsageError
from cld_core.files import sync_folder
from cld_core.ownership import is_mine, require_may_change, user_name
from cld_core.run import RunFolder
from cld_core.run.events import JobRef
from cld_core.run.groups import Group
from cld_core.run.lease import Lease, held_message, newest, seems_alive
from cldctl import clusters, locks
from cldctl.hints import command

from . import cluster_choice, survey
from .state import OVER
from .status import RunStatus, status_of, status_or_reason
from .survey import Answers

# A run that is being removed, or whose removal was interrupted.
_LEFT = re.compile(r"\.[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.[0-9a-f]{8}\.removed")
# Seconds for which the answers of the clusters count: one question is enough for many runs.
_ASKED_S = 30.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Removal:
    """A run that may be removed, as it is now, and the bytes that its files take."""

    run: RunFolder
    status: RunStatus
    size: int


def plan(runs: Sequence[RunFolder]) -> list[Removal]:
    """What removing these runs means. Nothing is changed.

    Raises:
        CldError: a run belongs to somebody else, or cannot be removed completely.
        SchedulerAway: a cluster that would know whether one is alive does not answer.
        UsageError: one is alive.
    """
    for run in runs:
        _require_removable(run)
    answers = survey.of_runs(runs)
    return [Removal(run, require_over(run, answers, "Nothing was removed"), size_of(run.path)) for run in runs]


def remove(removal: Removal) -> None:
    """Remove a run, unless it has come to life since it was looked at.

    It disappears at once, under a hidden name; files that an interruption leaves are removed by `clear_left`.

    Raises:
        CldError: it is alive, or others start a job of it.
    """
    run, group = removal.run, Group.of(removal.run)
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
    """Own a run of which nothing is alive: nobody starts a job of it, or trains it in another way, meanwhile.

    Args:
        otherwise: what is not done if something is alive; a sentence without its full stop.

    Returns:
        What raises an error once another process has taken the run over; called before anything is removed.

    Raises:
        CldError: something is alive, or that cannot be found out.
    """
    with locks.only_one(run.path, clusters.default() if run.is_damaged else cluster_choice.chosen(None, run)):
        answers = survey.lately(run, _ASKED_S)
        require_over(run, answers, otherwise)
        gone = {job.job_id for job, is_settled in _jobs(run) if not answers.may_live(job, is_settled)}
        try:
            lease = Lease.acquire(run.leases, job_id="cldctl rm", gone=gone)
        except LeaseHeldError as error:
            raise UsageError(f"{error} {otherwise}.") from error
        except OSError as error:
            if error.errno not in _FULL:
                raise _unknown_owner(run, error, otherwise) from error
            # Whoever makes room on a full disk cannot write there first.
            yield lambda: None
            return
        try:
            yield lease.check
        finally:
            lease.release()


def _unknown_owner(run: RunFolder, error: OSError, otherwise: str) -> CldError:
    text = f"whether something writes into this run cannot be found out ({error.strerror or error})"
    return CldError(f"{run.leases}: {text}. {otherwise}. Make the folder readable and writable, and try again.")


def _remove_empty(group: Group) -> None:
    """Remove what the runs of a group shared, after the last of them, unless somebody starts others at this moment."""
    if not group.path.is_dir() or not is_mine(group.path) or locks.is_locked(group.path) or group.runs():
        return
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
    answers.require((job.cluster for job, _ in jobs), otherwise)
    status = status_or_reason(run, answers) if run.is_damaged else status_of(run, answers)
    cancel = f"Wait, or end it first with `{command(f'cancel {run.name}', run)}`"
    if status.state not in OVER:
        raise UsageError(f"{run.name} is {status.state.lower()}. {otherwise}. {cancel}.")
    if live := [job.job_id for job, is_settled in jobs if answers.may_live(job, is_settled)]:
        raise UsageError(f"{run.name}: job {', '.join(live)} may still run or wait. {otherwise}. {cancel}.")
    try:
        _, holder = newest(run.leases)
    except OSError as error:
        raise _unknown_owner(run, error, otherwise) from error
    if seems_alive(run.leases):
        raise UsageError(f"{held_message(run.path, holder or {})} {otherwise}.")
    if locks.is_locked(run.path):
        raise UsageError(f"{run.name}: another cldctl starts a job of it at this moment. {otherwise}. Try again.")
    return status


def _jobs(run: RunFolder) -> list[tuple[JobRef, bool]]:
    """The jobs of a run; those that the ledger of a damaged one still tells of."""
    jobs: list[tuple[JobRef, bool]] = []
    try:
        jobs.extend(survey.jobs_of(run))
    except (OSError, CldError):
        if not run.is_damaged:
            raise
    return jobs


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder; links are not followed, and a file of several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for entry in _files_in(folder):
        status = entry.stat(follow_symlinks=False)
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            total += status.st_size
    return total


def _files_in(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_in(Path(entry.path))
            else:
                yield entry


def _require_removable(run: RunFolder) -> None:
    """Refuse a run of somebody else, a link to one, and one that holds what this user cannot remove.

    Raises:
        CldError
    """
    if run.path.is_symlink():
        raise UsageError(f"{run.path}: it is a link to a run. Nothing was removed. Name the run itself.")
    require_may_change(run.path, "Nothing was removed")
    if not is_mine(run.path):
        name = user_name(run.path.lstat().st_uid)
        raise CldError(f"{run.path}: it belongs to {name}. Nothing was removed. Ask them to remove it.")
    if not os.access(run.path.parent, os.W_OK | os.X_OK):
        raise CldError(f"{run.path.parent}: you may not write into it. Nothing was removed. Ask its owner.")
    for folder in _folders_in(run.path):
        if not os.access(folder, os.W_OK | os.X_OK | os.R_OK):
            name = user_name(folder.lstat().st_uid)
            text = f"you may not remove what is in it, because it belongs to {name}"
            raise CldError(f"{folder}: {text}. Nothing was removed. Ask them to remove it first.")


def _folders_in(folder: Path) -> Iterator[Path]:
    yield folder
    if not os.access(folder, os.R_OK | os.X_OK):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                yield from _folders_in(Path(entry.path))
