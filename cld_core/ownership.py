"""Whose files these are: a job may unpickle only what its own user alone can write."""

import os
import stat
from pathlib import Path

from cld_core.errors import CldError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def is_mine(path: Path) -> bool:
    """Whether the user of this process owns ``path``; links are not followed.

    root may access all files, and owns only those of root.

    Raises:
        OSError: the owner of ``path`` cannot be read.
    """
    return path.lstat().st_uid == os.geteuid()


def require_may_change(path: Path, what: str) -> None:
    """Refuse to write into a folder that belongs to another user, also for root.

    Args:
        what: the consequence, for the message: "Nothing was cancelled".

    Raises:
        CldError: another user owns the folder; names the folder, its owner and the fix.
        OSError: the owner of ``path`` cannot be read.
    """
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise CldError(
            f"{path}: it belongs to {user_name(owner)}, and only its owner may change it. {what}. "
            f"Copy the folder, or start a run from its weights (submit --from)."
        )


def user_name(number: int) -> str:
    """The name of a user; its number if it has none here."""
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def problem_of(status: os.stat_result) -> str | None:
    """Why a file may have been written by another user; None if only this user can write it."""
    if stat.S_ISLNK(status.st_mode):
        return "it is a symbolic link"
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & _OTHERS_WRITE:
        return f"others may write into it (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def shared_with(status: os.stat_result) -> str | None:
    """Why a file may have been written by another user; None if only this user can write it.

    Unlike `problem_of`, it allows write access of a group whose only member is this user. Many
    systems give every user such a group.
    """
    is_group_only = status.st_mode & _OTHERS_WRITE == stat.S_IWGRP
    if status.st_uid == os.geteuid() and is_group_only and _is_own_group(status.st_gid):
        return None
    return problem_of(status)


def _is_own_group(group: int) -> bool:
    """Whether a group has this user's name and no other member."""
    import grp

    try:
        entry = grp.getgrgid(group)
    except KeyError:
        return False
    user = user_name(os.geteuid())
    return entry.gr_name == user and set(entry.gr_mem) <= {user}


def require_private(path: Path, why: str) -> None:
    """Refuse a file or folder that others own or may write into; a link is refused too.

    Args:
        why: the danger, for the message: "a job would run what is in it".

    Raises:
        CldError: others own ``path`` or may write into it, or it is a link; names it and the fix.
        OSError: the owner and mode of ``path`` cannot be read.
    """
    problem = problem_of(path.lstat())
    if problem is not None:
        raise CldError(f"{path}: {problem}, and {why}. Remove it, or use another folder.")


def make_private(folder: Path, why: str, *, hidden: bool = False) -> None:
    """Create a folder that only this user can write into, or take that right away from others.

    An existing folder keeps its group and the setgid bit.

    Args:
        why: the danger, for the message: "a job would run what is in it".
        hidden: whether the folder is hidden from others, so that they cannot read it either.

    Raises:
        CldError: the folder belongs to another user, or is a link.
        OSError: the folder cannot be created.
    """
    folder.mkdir(mode=0o700 if hidden else 0o755, parents=True, exist_ok=True)
    status = folder.lstat()
    refused = stat.S_IRWXG | stat.S_IRWXO if hidden else _OTHERS_WRITE
    if status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode) and status.st_mode & refused:
        folder.chmod(stat.S_IMODE(status.st_mode) & ~refused)
    require_private(folder, why)
