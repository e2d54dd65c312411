"""Files of numpy arrays (.npz) that anybody may have made, read within bounds.

What a member says of itself, that is its shape, its type and its size, is compared with what is there before any memory
is taken for it. Members are plain or deflated arrays of numbers or text; nothing is unpickled.
"""

import contextlib
import io
import math
import warnings
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cld_core.files import opened
from cld_core.sanitize import one_line

# Of a file, unpacked. What is not compressed may have as many bytes as the file has.
MOST_UNPACKED_BYTES = 2**30
_MOST_MEMBERS = 64
_LONGEST_HEADER = 10_000
_LONGEST_NAME = 200
# Booleans, whole numbers, real numbers, text.
_KINDS = "biufU"
_AT_ONCE = 2**20
_READERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}


class DamagedError(ValueError):
    """What is wrong with a file."""


@dataclass(frozen=True)
class Outline:
    """What a member says of itself.

    Attributes:
        begins: where in the member its numbers begin.
    """

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    fortran: bool
    begins: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Arrays:
    """The members of an open file, by name without `.npy`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._archive = zipfile.ZipFile(file)
        entries = self._archive.infolist()
        if len(entries) > _MOST_MEMBERS:
            raise DamagedError(f"it has {len(entries)} members, more than {_MOST_MEMBERS}")
        length = file.seek(0, io.SEEK_END)
        _require_sizes(entries, length)
        self._entries = {_name(entry): entry for entry in entries}
        self.outlines = {name: self._outline(entry) for name, entry in self._entries.items()}

    def load(self, name: str) -> np.ndarray:
        """The array of a member, its checksum compared.

        Raises:
            DamagedError: its content is not what it says.
        """
        with _named():
            return self._load(name, self.outlines[name])

    def _load(self, name: str, outline: Outline) -> np.ndarray:
        flat: Any = np.empty(math.prod(outline.shape), outline.dtype)
        raw, at = flat.view(np.uint8), 0
        with self._archive.open(self._entries[name]) as member:
            member.read(outline.begins)
            while piece := member.read(_AT_ONCE):
                if at + len(piece) > len(raw):
                    raise DamagedError(f"its array {name} is longer than it says")
                raw[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
        if at < len(raw):
            raise DamagedError(f"its array {name} is cut short")
        made: np.ndarray = flat.reshape(outline.shape[::-1]).T if outline.fortran else flat.reshape(outline.shape)
        return made

    def _outline(self, entry: zipfile.ZipInfo) -> Outline:
        with self._archive.open(entry) as member:
            start = member.read(8)
            if len(start) < 8 or not start.startswith(np.lib.format.MAGIC_PREFIX):
                raise DamagedError("a member of it is not an array")
            version = (start[6], start[7])
            if version not in _READERS:
                raise DamagedError(f"an array of it has version {version[0]}.{version[1]} of the format")
            size = member.read(2 if version == (1, 0) else 4)
            length = int.from_bytes(size, "little")
            if length > _LONGEST_HEADER:
                raise DamagedError(f"the header of an array has {length} bytes")
            header = member.read(length)
        with warnings.catch_warnings():
            # Headers that Python 2 wrote, and whatever a damaged one looks like to the parser.
            warnings.simplefilter("ignore")
            shape, fortran, dtype = _READERS[version](io.BytesIO(size + header), max_header_size=_LONGEST_HEADER)
        outline = Outline(tuple(shape), dtype, bool(fortran), 8 + len(size) + length)
        if dtype.kind not in _KINDS or dtype.itemsize == 0 or dtype.shape:
            raise DamagedError(f"an array of it has the type {one_line(dtype, 60)}")
        if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 0 for side in shape):
            raise DamagedError(f"an array of it has the shape {one_line(shape, 60)}")
        if outline.begins + outline.bytes != entry.file_size:
            raise DamagedError(f"an array of shape {one_line(shape, 60)} has {entry.file_size} bytes")
        return outline


@contextlib.contextmanager
def arrays(path: Path) -> Iterator[Arrays]:
    """The arrays of a file.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        DamagedError: it is not such a file, or damaged.
    """
    with opened(path, follow=True) as file:
        with _named():
            content = Arrays(file)
        yield content


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Raise what zipfile, zlib and numpy make of a damaged file, which may be anything, as `DamagedError`."""
    try:
        yield
    except (DamagedError, OSError):
        raise
    except Exception as error:
        raise DamagedError(f"{type(error).__name__}: {one_line(error)}") from error


def load(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of these names, or all of them; raises as `arrays` does."""
    with arrays(path) as content:
        missing = sorted(set(names or ()) - set(content.outlines))
        if missing:
            raise DamagedError(f"it has no array {', '.join(missing)}")
        return {name: content.load(name) for name in (content.outlines if names is None else names)}


def _name(entry: zipfile.ZipInfo) -> str:
    name = entry.filename.removesuffix(".npy")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise DamagedError("a member of it has a name that is not one of an array")
    return name


def _require_sizes(entries: list[zipfile.ZipInfo], length: int) -> None:
    """Refuse members that would unpack to more than there can be."""
    stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    packed = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise DamagedError("it is compressed in another way than numpy does")
    if stored > length:
        raise DamagedError(f"its arrays have {stored} bytes, more than the file")
    if packed > MOST_UNPACKED_BYTES:
        raise DamagedError(
            f"its arrays unpack to {packed} bytes, more than {MOST_UNPACKED_BYTES}; save it with np.savez"
        )
