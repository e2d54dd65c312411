"""One file of answers for all commands of a user on a machine: Slurm is asked once for all of them."""

import contextlib
import functools
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cld_core.files import descriptor_for_writing, opened, parse_json, write_text
from cldctl import config
from cldctl.locks import locked_within

from .known import MAX_JOBS, Known, of_json, to_json

# Where Slurm's configuration is, if the environment does not say.
_CONFIGURATIONS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/run/slurm/conf/slurm.conf")
_MAX_BYTES = 200 * MAX_JOBS
# Files of machines that have not been used for this many seconds are removed.
_UNUSED_S = 7 * 24 * 3600.0


class Answers:
    """The answers of one Slurm: in a file that all commands share, or in this process if there cannot be one."""

    def __init__(self, file: Path | None, configuration: str | None) -> None:
        self._file, self._configuration = file, configuration
        self._own = Known()
        self._read: tuple[Any, ...] = ()

    def load(self) -> Known:
        """What is known by now; nothing if another cluster has answered."""
        if self._file is None:
            return self._own
        try:
            with opened(self._file) as file:
                read = *_mark(os.fstat(file.fileno())), self._cluster()
                if read != self._read:
                    content: Any = parse_json(file.read(_MAX_BYTES))
                    is_ours = isinstance(content, dict) and content.get("cluster") == read[-1]
                    self._own, self._read = of_json(content, time.time()) if is_ours else Known(), read
        except FileNotFoundError:
            self._own, self._read = Known(), ()
        except (OSError, ValueError):
            # Damaged: what this process knows is no worse.
            self._read = ()
        return self._own

    def save(self, known: Known) -> None:
        """Let all commands know; only this process if the file cannot be written."""
        self._own = known
        if self._file is None:
            return
        try:
            if not os.path.lexists(self._file):
                _sweep(self._file.parent)
            cluster = self._cluster()
            write_text(self._file, json.dumps({"cluster": cluster, **to_json(known)}) + "\n")
            self._read = *_mark(self._file.lstat()), cluster
        except (OSError, ValueError):
            self._file = None

    @contextlib.contextmanager
    def asking(self, patience_s: float) -> Iterator[bool]:
        """Whether this process is the one that asks; others may have asked while it waited up to ``patience_s``."""
        descriptor = self._lock()
        if descriptor is None:
            yield True
            return
        try:
            yield _is_locked(descriptor, patience_s)
        finally:
            os.close(descriptor)

    def _cluster(self) -> str:
        """Which cluster the configuration describes: another may take its place at the same path."""
        try:
            return str(_mark(os.stat(self._configuration))) if self._configuration is not None else ""
        except (OSError, ValueError):
            return ""

    def _lock(self) -> int | None:
        if self._file is None:
            return None
        try:
            return descriptor_for_writing(self._file.with_suffix(".lock"))
        except OSError:
            self._file = None
            return None


def answers() -> Answers:
    """The answers of the Slurm that commands of this process would ask."""
    folder = os.environ.get("CLDCTL_CACHE", ""), os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME", "")
    return _answers(os.environ.get("SLURM_CONF", ""), os.environ.get("SLURM_CLUSTERS", ""), folder)


@functools.lru_cache(maxsize=16)
def _answers(configuration: str, cluster: str, where: tuple[str, ...]) -> Answers:
    folder = config.cache_folder()
    found = configuration or next(filter(os.path.exists, _CONFIGURATIONS), None)
    # Of this machine alone: on a network file system, machines see each other's locks and files late.
    name = f"{socket.gethostname()}\n{found}\n{cluster}"
    key = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:16]
    return Answers(folder / f"slurm-{key}.json" if folder is not None else None, found)


def _sweep(folder: Path) -> None:
    """Remove the answers of other machines and clusters that nobody has written for a long time."""
    for file in folder.glob("slurm-*"):
        with contextlib.suppress(OSError):
            if time.time() - file.lstat().st_mtime > _UNUSED_S:
                file.unlink()


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_locked(descriptor: int, patience_s: float) -> bool:
    try:
        return locked_within(descriptor, patience_s)
    except OSError:
        return True  # A file system without locks: several may ask at once.
