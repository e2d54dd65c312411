"""The folder of this user for what can be found out again: it may be deleted at any time."""

import contextlib
import os
import time
from pathlib import Path

from cld_core.errors import CldError
from cld_core.ownership import is_mine, make_private


def folder() -> Path | None:
    """``cldctl`` in the user's cache folder, private to this user; None if there cannot be one.

    ``$CLDCTL_CACHE`` names another folder. A home that belongs to somebody else, as after `sudo`, is left alone.
    """
    try:
        chosen = _chosen()
        if not is_mine(_existing(chosen)):
            return None
        make_private(chosen, "commands would believe what is in it", hidden=True)
    except (OSError, CldError, RuntimeError, ValueError):
        return None
    return chosen


def sweep(folder: Path, pattern: str, unused_s: float) -> None:
    """Remove the files of this pattern that were not written for so many seconds."""
    for file in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - file.lstat().st_mtime > unused_s:
                file.unlink()


def _chosen() -> Path:
    """The folder by the environment; a path that is not absolute counts for nothing."""
    own = Path(os.environ.get("CLDCTL_CACHE", ""))
    if own.is_absolute():
        return own
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "cldctl"


def _existing(path: Path) -> Path:
    """The nearest of the folder and those around it that exists."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path
