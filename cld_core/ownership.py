"""Whose files these are: a job may unpickle only what nobody else can have written."""

import os
import stat
from pathlib import Path

from cld_core.errors import CldError


def owner(path: Path) -> int:
    """The user id of the owner of a file or folder; links are not followed.

    Raises:
        OSError: it cannot be looked at.
    """
    return path.lstat().st_uid


def is_mine(path: Path) -> bool:
    """Whether the user of this process owns ``path``. root, for whom ownership says nothing, owns what root owns."""
    return owner(path) == os.geteuid()


def require_may_change(path: Path, what: str) -> None:
    """Refuse to act on a folder that belongs to somebody else, unless it is shared with a group of this user.

    Shared is a folder that its group may write into. root, who could write anywhere, acts on runs of others no more
    than anybody else does: jobs would be started, and files left, under a name that their owner cannot work with.

    Args:
        what: what is not done, for the message: "It was not cancelled".

    Raises:
        CldError: names the folder, its owner and the fix.
        OSError: it cannot be looked at.
    """
    status = path.stat()
    if status.st_uid == os.geteuid():
        return
    name = user_name(status.st_uid)
    if not status.st_mode & stat.S_IWGRP:
        text, fix = f"it belongs to {name}, who shares it with nobody", "Ask them, or copy it to a folder of yours"
    elif status.st_gid not in {os.getegid(), *os.getgroups()}:
        text, fix = f"it belongs to {name}, who shares it with a group that you are not in", "Ask them to add you"
    else:
        return
    raise CldError(f"{path}: {text}. {what}. {fix}.")


def user_name(number: int) -> str:
    """The name of a user; its number if it has none here."""
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def problem_of(what: os.stat_result) -> str | None:
    """Why the content of a file or folder with this status may have been written by somebody else; None if it cannot.

    Args:
        what: of a file that is open, or of a folder, so that no other one can take its place after the check.
    """
    if what.st_uid != os.geteuid():
        return f"it belongs to user {what.st_uid}"
    if what.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write into it (mode {stat.S_IMODE(what.st_mode):04o})"
    return None


def require_private(path: Path, why: str) -> None:
    """Refuse a file or folder that others own or may write into; a link is refused too.

    Args:
        why: what would happen otherwise, for the message: "a job would run what is in it".

    Raises:
        CldError: names the path and the fix.
        OSError: it cannot be looked at.
    """
    status = path.lstat()
    problem = "it is a symbolic link" if stat.S_ISLNK(status.st_mode) else problem_of(status)
    if problem is not None:
        raise CldError(f"{path}: {problem}, and {why}. Remove it, or use another folder.")
