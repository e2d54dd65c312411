"""The folder of a data set that is being prepared, DIR.partial: who writes in it, and what is finished."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cld_core.errors import DataError
from cld_core.files import descriptor_for_writing, parse_json, read_bytes, write_json
from cld_core.ownership import is_mine, owner

from .store import FORMAT, PROGRESS, SPLITS, Split, lmdb_path

LOCK = "lock"
_CHECKSUM = re.compile(r"[0-9a-f]{32}|")
_MOST_IMAGES = 2**50


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished unit: its images, and the checksum of the split up to its end."""

    name: str
    fingerprint: str
    images: int
    checksum: str


def require_own(partial: Path) -> None:
    """Refuse a folder that somebody else made, or in which links lead elsewhere: what is written there follows them.

    Raises:
        DataError: names what it is.
        OSError: it cannot be looked at.
    """
    if not is_mine(partial) and not partial.is_symlink():
        text = f"belongs to user {owner(partial)}. Choose another --out, or ask them to remove it."
        raise DataError(f"{partial} {text}")
    folders = [partial, *(lmdb_path(partial, split) for split in SPLITS)]
    for path in (*folders, *(entry for folder in folders if folder.is_dir() for entry in folder.iterdir())):
        if path.is_symlink():
            raise DataError(f"{path} is a symbolic link, which a preparation does not follow. Remove it.")


@contextlib.contextmanager
def sole_writer(partial: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        DataError: another process holds it.
    """
    path = partial / LOCK
    try:
        descriptor = descriptor_for_writing(path)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}. Remove it, or choose another --out.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        text = f"Another process is writing {partial}. Wait until it ends, then run this command again."
        raise DataError(text) from error
    except OSError:
        pass  # A file system without locks: then the user must start one at a time.
    try:
        yield
    finally:
        os.close(descriptor)


def read(partial: Path, size: int) -> dict[Split, list[Done]]:
    """The finished units of each split; empty if there are none, or if they are of another size or format.

    Raises:
        DataError: the file that lists them is damaged.
    """
    path = partial / PROGRESS
    try:
        content = parse_json(read_bytes(path))
        if not isinstance(content, dict) or not isinstance(content.get("done"), dict):
            raise ValueError("it is not a list of finished units")
        before = {split: [_done(entry) for entry in _entries(content["done"], split)] for split in SPLITS}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}). Remove {partial} and start again.") from error
    return before if (content.get("format"), content.get("size")) == (FORMAT, size) else {}


def write(partial: Path, size: int, done: Mapping[Split, Sequence[Done]]) -> None:
    """Replace the list of finished units."""
    content = {split: [asdict(unit) for unit in units] for split, units in done.items()}
    write_json(partial / PROGRESS, {"format": FORMAT, "size": size, "done": content})


def remove_if_useless(partial: Path) -> None:
    """Remove the folder if no unit is finished. What is not of a preparation stays, and the folder with it."""
    if (partial / PROGRESS).exists():
        return
    with contextlib.suppress(OSError):
        for split in SPLITS:
            folder = lmdb_path(partial, split)
            for name in ("data.mdb", "lock.mdb"):
                (folder / name).unlink(missing_ok=True)
            if folder.is_dir():
                folder.rmdir()
        (partial / LOCK).unlink(missing_ok=True)
        partial.rmdir()


def _entries(done: dict[str, Any], split: str) -> list[Any]:
    entries = done.get(split, [])
    if not isinstance(entries, list):
        raise ValueError(f"its units of {split} are not a list")
    return entries


def _done(entry: Any) -> Done:
    if not isinstance(entry, dict) or set(entry) != {"name", "fingerprint", "images", "checksum"}:
        raise ValueError("a unit is not complete")
    name, fingerprint, images, checksum = (entry[key] for key in ("name", "fingerprint", "images", "checksum"))
    if not isinstance(name, str) or not isinstance(fingerprint, str):
        raise ValueError("a unit has no name")
    if not isinstance(images, int) or isinstance(images, bool) or not 0 <= images <= _MOST_IMAGES:
        raise ValueError("a unit has no number of images")
    if not isinstance(checksum, str) or not _CHECKSUM.fullmatch(checksum):
        raise ValueError("a unit has no checksum")
    return Done(name=name, fingerprint=fingerprint, images=images, checksum=checksum)
