"""Which cluster a run belongs to."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cld_core.errors import CldError, UsageError
from cld_core.files import descriptor_for_writing, opened
from cld_core.ownership import require_may_change, user_name
from cld_core.run import RunFolder
from cld_core.run.groups import Group
from cldctl import clusters, config
from cldctl.clusters.base import Cluster
from cldctl.locks import locked_within

# Seconds that others may take to start their jobs: as long as a scheduler that does not answer keeps them.
PATIENCE_S = 180.0
# Folders that this process has locked.
_held: set[Path] = set()


def chosen(name: str | None, run: RunFolder | None = None) -> Cluster:
    """The cluster of this name; without one the run's own (`History.cluster`), or the default.

    Raises:
        UsageError: there is no such cluster, or it cannot be used on this machine.
    """
    if name is None and run is not None:
        name = run.ledger.history().cluster
    cluster = default() if name is None else clusters.find(name)
    if (reason := cluster.unavailable()) is not None:
        raise UsageError(f"--cluster {cluster.name}: {reason}")
    return cluster


def default() -> Cluster:
    """Where new runs start unless somebody says otherwise: as the user's defaults say, or the first that can be used.

    Raises:
        UsageError: there is no such cluster.
    """
    name = config.setting("cluster")
    if name is None:
        return clusters.default()
    try:
        return clusters.find(name)
    except UsageError as error:
        places = " or ".join(map(str, filter(None, ("$CLDCTL_CLUSTER", config.file()))))
        raise UsageError(f"{error} It is the default, in {places}.") from error


def default_profile(cluster: Cluster) -> str | None:
    """The profile for jobs of ``cluster`` unless somebody names one: it is for the default cluster alone.

    Raises:
        UsageError: the user's defaults cannot be used.
    """
    name = config.setting("profile")
    return name if name is not None and cluster.name == default().name else None


@contextlib.contextmanager
def only_one(folder: Path, cluster: Cluster) -> Iterator[None]:
    """Of several people who start jobs in a folder at the same moment, one at a time gets past here.

    A cluster that blocks until the work is done would keep the others waiting; there, nobody waits.

    Raises:
        CldError: the folder belongs to somebody else (nothing is left in it), or the others take too long.
        OSError: this user may not write into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    require_may_change(folder, "Nothing was started")
    if cluster.blocks:
        yield
        return
    file = folder / ".submit.lock"
    descriptor = _open_lock(file)
    try:
        _lock(descriptor, file)
        _held.add(folder)
        yield
    finally:
        _held.discard(folder)
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process, other than this one, starts jobs in a folder at this moment."""
    if folder in _held:
        return False
    try:
        with opened(folder / ".submit.lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def is_starting(run: RunFolder) -> bool:
    """Whether a process, other than this one, starts jobs of a run, or of its group, at this moment."""
    if is_locked(run.path):
        return True
    group = Group.of(run)
    return group is not None and is_locked(group.path)


def _open_lock(file: Path) -> int:
    """A descriptor of the lock, whoever has created it; reading is enough to lock it on a local disk."""
    try:
        return descriptor_for_writing(file)
    except PermissionError:
        if not os.access(file.parent, os.W_OK):
            raise
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(file, flags)
    except PermissionError as error:
        text = f"it belongs to {user_name(file.lstat().st_uid)} and cannot be read"
        raise CldError(f"{file}: {text}. Remove it and try again.") from error


def _lock(descriptor: int, file: Path) -> None:
    """Lock a file, waiting for others up to `PATIENCE_S` seconds.

    Raises:
        CldError: somebody holds it for longer, or it cannot be locked.
    """
    try:
        is_mine = locked_within(descriptor, PATIENCE_S)
    except OSError as error:
        # On NFS, only those who may write into a file can lock it.
        text = f"it cannot be locked ({error.strerror})"
        raise CldError(f"{file}: {text}. Remove it and try again.") from error
    if not is_mine:
        text = f"another cldctl has been starting jobs here for over {PATIENCE_S:.0f} s"
        raise CldError(f"{file}: {text}. Wait for it, or remove the file if there is none.")
