"""Which cluster a run belongs to."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from cld_core.errors import UsageError
from cld_core.run import RunFolder
from cld_core.small_files import opened
from cldctl import clusters
from cldctl.clusters.base import Cluster

# Folders that this process has locked.
_held: set[Path] = set()


def chosen(name: str | None, run: RunFolder | None = None) -> Cluster:
    """The cluster of this name; without one that of the run's last job, or the default.

    Raises:
        UsageError: there is no such cluster, or it cannot be used on this machine.
    """
    if name is None and run is not None:
        jobs = run.ledger.history().jobs
        name = jobs[-1].job.cluster if jobs else None
    cluster = clusters.default() if name is None else clusters.find(name)
    if (reason := cluster.unavailable()) is not None:
        raise UsageError(f"--cluster {cluster.name}: {reason}")
    return cluster


@contextlib.contextmanager
def only_one(folder: Path, cluster: Cluster) -> Iterator[None]:
    """Of several people who start jobs in a folder at the same moment, one at a time gets past here.

    A cluster that blocks until the work is done would keep the others waiting; there, nobody waits.
    """
    if cluster.blocks:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".submit.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _held.add(folder)
        try:
            yield
        finally:
            _held.discard(folder)


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
