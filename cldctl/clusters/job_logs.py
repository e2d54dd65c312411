"""Where a launcher keeps the output of jobs, their scripts, and the pickles that they begin with.

A job runs what its pickle says, so the folder has to be this user's own: others may read it, and
only its owner may write into it. Jobs that train several runs of a group have it in the folder of
the group (`cld_core.run.groups`).
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cld_core import ownership
from cld_core.errors import CldError, UsageError
from cld_core.run.folder import is_name
from cld_core.run.groups import GROUPS
from cld_core.sanitize import has_control

from .base import SchedulerAway, SchedulerRefused

# What submitit replaces in paths.
_TAG = re.compile(r"%[jtAa]")
# What submitit calls a pickle, and a script, before it knows the number of their job.
_UNUSED = re.compile(r"[0-9a-f]{32}\.pkl|\.submission_file_[0-9a-f]{32}\.sh")
_WHY = "a job would run what is in it"


def moved(folder: Path, logs: str) -> Path:
    """The folder of a job's logs, ``folder`` or one beside it, in a run that may have been moved.

    Args:
        logs: where they were when it was submitted.
    """
    name = Path(logs).name
    shared = Path(logs).parent
    if shared.parent.name == GROUPS and is_name(shared.name) and is_name(name):
        # Of an array that trained several runs; it lies beside them.
        return folder.parent.with_name(GROUPS) / shared.name / name
    # Earlier versions wrote logs-USER for the jobs of other users.
    return folder.with_name(name) if name.startswith(f"{folder.name}-") else folder


def check(logs: Path) -> None:
    """Refuse a folder that cannot hold this user's jobs; nothing is changed.

    Raises:
        CldError: another user owns it, or it is a link.
        UsageError: its name would not be read as it is.
    """
    if _TAG.search(str(logs)) or has_control(str(logs)):
        raise UsageError(
            f"{str(logs)!r}: the path of a job's logs cannot have a control character, or %j, %t, "
            f"%A or %a, which stand for numbers of jobs. Use another --runs-dir."
        )
    # `prepare` takes the right to write into an existing folder away from others.
    if os.path.lexists(logs) and (logs.is_symlink() or not ownership.is_mine(logs)):
        ownership.require_private(logs, _WHY)


def prepare(logs: Path) -> None:
    """Create the folder, or take away the right of others to write into it.

    Raises:
        CldError: as `check`.
        OSError: it cannot be created or opened.
    """
    ownership.make_private(logs, _WHY)


@contextlib.contextmanager
def refusals(logs: Path) -> Iterator[None]:
    """What keeps a job with these logs from being started is a refusal.

    Raises:
        SchedulerRefused: a file cannot be written, or others may write what the job runs.
        SchedulerAway
    """
    try:
        yield
    except (SchedulerRefused, SchedulerAway):
        raise
    except CldError as error:
        raise SchedulerRefused(str(error)) from error
    except OSError as error:
        raise SchedulerRefused(
            f"{error.filename or logs}: the job could not be started ({error.strerror or error}). "
            f"Fix that and resume."
        ) from error


@contextlib.contextmanager
def submission(logs: Path) -> Iterator[int]:
    """Keep others from writing what submitit writes in this block: a job runs it.

    Files that belong to no job at the end are removed.

    Returns:
        The umask that jobs are to have: that of the user.

    Raises:
        CldError, OSError: as `prepare`.
    """
    prepare(logs)
    umask = os.umask(0o022)
    try:
        yield umask
    finally:
        os.umask(umask)
        for file in logs.iterdir():
            if _UNUSED.fullmatch(file.name):
                with contextlib.suppress(OSError):
                    file.unlink()
