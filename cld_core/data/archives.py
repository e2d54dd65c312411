"""The files in a folder, a zip file or a .tar, from which a data set is prepared."""

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from cld_core.errors import DataError, WrongSourceError
from cld_core.sanitize import one_line

# How a .tar begins, after the name of its first file and what is known of it.
_TAR_AT, _TAR = 257, b"ustar"


@dataclass(frozen=True)
class Member:
    """A file: its path below the source, with slashes, and ``read()`` its bytes; ``path`` if it is in a folder."""

    name: str
    length: int
    read: Callable[[], bytes]
    path: Path | None = None


def members(source: Path, wanted: str, *, is_compressed: bool = False) -> list[Member]:
    """The files in ``source``, by name; in a folder, those that are not below a hidden one.

    Args:
        wanted: what can be passed, for messages.
        is_compressed: an archive is a .tar that may be compressed. To read each of many files in it takes long.

    Raises:
        WrongSourceError: it is neither a folder nor such an archive.
        DataError: it is damaged, or cannot be read.
    """
    if not source.is_dir() and not source.is_file():
        raise WrongSourceError(f"{source} does not exist, or is no file. Pass {wanted} as --source.")
    try:
        return sorted(_kind(source, is_compressed)(source), key=lambda member: member.name)
    except Exception as error:  # zipfile and tarfile raise whatever the numbers in a damaged file lead to
        if isinstance(error, WrongSourceError):
            raise WrongSourceError(f"{error}. Pass {wanted} as --source.") from error
        text = f"{source} cannot be listed, or is not complete ({one_line(error)})"
        raise DataError(f"{text}. Check its permissions, or fetch or make it again.") from error


def _kind(source: Path, is_compressed: bool) -> Callable[[Path], Iterator[Member]]:
    if source.is_dir():
        return _in_folder
    with source.open("rb") as file:
        start = file.read(_TAR_AT + len(_TAR))
    if is_compressed or start.endswith(_TAR):
        return _in_tar
    # An empty file may have been anything, and some zip files begin with a program that unpacks them.
    if not start or start.startswith(b"PK") or zipfile.is_zipfile(source):
        return _in_zip
    raise WrongSourceError(f"{source} is neither a folder nor a zip file nor a .tar without compression")


def _in_folder(source: Path) -> Iterator[Member]:
    """Follows links, and enters each folder once."""
    entered = set()
    for at, folders, files in os.walk(source, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
        real = os.path.realpath(at)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        for path in (Path(at, name) for name in files):
            # Neither broken links nor pipes.
            if path.is_file():
                yield Member(path.relative_to(source).as_posix(), path.stat().st_size, path.read_bytes, path)


def _in_zip(source: Path) -> Iterator[Member]:
    archive = zipfile.ZipFile(source)
    for entry in archive.infolist():
        if entry.filename and not entry.is_dir():
            yield Member(entry.filename, entry.file_size, partial(archive.read, entry))


def _in_tar(source: Path) -> Iterator[Member]:
    with tarfile.open(source) as archive:
        for entry in archive:
            if entry.isfile():
                # Many begin with "./".
                name = PurePosixPath(entry.name).as_posix()
                yield Member(name, entry.size, partial(_read_of_tar, source, entry))
        # tarfile stops without a word where a header is damaged or missing.
        assert archive.fileobj is not None, "it is open"
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end of the archive at byte {archive.offset}")


def _read_of_tar(source: Path, entry: tarfile.TarInfo) -> bytes:
    with tarfile.open(source) as archive:
        file = archive.extractfile(entry)
        assert file is not None, "it is a regular file"
        return file.read()
