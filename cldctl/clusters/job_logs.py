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

# The tags that submitit replaces in paths.
_TAG = re.compile(r"%[jtAa]")
# Names of submitit's pickles and scripts as long as their job has no id.
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
    """Refuse a folder that cannot hold this user's jobs; changes nothing.

    Raises:
        CldError: another user owns the folder, or it is a link.
        UsageError: its path has characters with a meaning of their own.
    """
    if _TAG.search(str(logs)) or has_control(str(logs)):
        raise UsageError(
            f"{str(logs)!r}: the path of a job's logs cannot have a control character, or %j, %t, "
            "%A or %a, which stand for numbers of jobs. Use another --runs-dir."
        )
    # `prepare` takes the right to write into an existing folder away from others.
    if os.path.lexists(logs) and (logs.is_symlink() or not ownership.is_mine(logs)):
        ownership.require_private(logs, _WHY)


def prepare(logs: Path) -> None:
    """Create the folder, or remove the permission of others to write into it.

    Raises:
        CldError: another user owns the folder, or it is a link.
        OSError: it cannot be created or opened.
    """
    ownership.make_private(logs, _WHY)


@contextlib.contextmanager
def refusals(logs: Path) -> Iterator[None]:
    """Turn errors that keep a job with these logs from starting into `SchedulerRefused`.

    Raises:
        SchedulerRefused: a file cannot be written, or other users may write what the job runs.
        SchedulerAway: unchanged.
    """
    try:
        yield
    except (SchedulerRefused, SchedulerAway):
        raise
    except CldError as error:
        raise SchedulerRefused(str(error)) from error
    except OSError as error:
        raise SchedulerRefused(
            f"{error.filename or logs}: the job could not be started "
            f"({error.strerror or error}). Fix that and resume."
        ) from error


@contextlib.contextmanager
def submission(logs: Path) -> Iterator[int]:
    """Let submitit write into ``logs`` so that only this user can change the files.

    At the end of the block, files that belong to no job are removed.

    Yields:
        The user's umask, which jobs are to have.

    Raises:
        CldError: another user owns the folder, or it is a link.
        OSError: the folder cannot be created or opened.
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
