"""Folders: what they lie on, and a place to try things (for `cldctl doctor`)."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


def kind_of(path: Path) -> tuple[str, str]:
    """Type and device of the file system that holds ``path``, for example ("nfs4", "server:/home")."""
    kind, longest = ("unknown", ""), -1
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return kind
    where = path.resolve()
    for line in lines:
        device, mount, name = line.split(" ")[:3]
        mount = mount.replace("\\040", " ")
        # The last of several mounts at the same place hides the others.
        if where.is_relative_to(mount) and len(mount) >= longest:
            kind, longest = (name, device), len(mount)
    return kind


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


@contextlib.contextmanager
def scratch_folder(near: Path) -> Iterator[Path]:
    """A temporary folder on the file system that holds, or will hold, ``near``.

    Raises:
        OSError: no folder can be created there.
    """
    with tempfile.TemporaryDirectory(
        prefix=".cldctl-doctor-", dir=nearest_folder(near), ignore_cleanup_errors=True
    ) as name:
        yield Path(name)
