"""Tar archives read forwards only.

Python's `tarfile` believes the numbers in an archive: a size below zero takes it back to where it was, for ever, and a
long name of terabytes into the memory. Here an archive is a sequence of bytes that is read once; what does not
fit into it is an error.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cld_core.files import opened

_BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
_LONG_NAME, _LONG_LINK, _EXTENDED, _EXTENDED_FOR_ALL = b"L", b"K", b"x", b"g"
_SPARSE = b"S"
# Names, and attributes of the extended form, of a member.
_LONGEST_TEXT = 1 << 20
_MOST_MEMBERS = 1 << 20
_AT_ONCE = 1 << 20
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7zXZ": lzma.open}
# Where a header of POSIX and later says what it is.
_MAGIC_AT, _MAGIC = 257, b"ustar"
# What decompressors raise for damaged archives.
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)


class TarError(ValueError):
    """What is wrong with an archive."""


@dataclass(frozen=True)
class Member:
    """A regular file in an archive: its content is the ``size`` bytes from ``offset`` on."""

    name: str
    offset: int
    size: int


def decompressed(file: IO[bytes]) -> IO[bytes]:
    """The content of a file that may be compressed by gzip, bzip2 or xz."""
    start = file.read(6)
    file.seek(0)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            # Classes of three modules, which have no type in common.
            return opener(file, "rb")  # type: ignore[operator]
    return file


def begins_as_archive(path: Path) -> bool:
    """Whether a file was a tar archive, whatever has become of it; a very short one may have been.

    Archives older than POSIX have no magic number: of one that can be read, this does not say anything.
    """
    with opened(path, follow=True) as file:
        start = file.read(_MAGIC_AT + len(_MAGIC))
    is_short = len(start) < _MAGIC_AT + len(_MAGIC)
    return is_short or start.startswith(tuple(_OPENERS)) or start[_MAGIC_AT:] == _MAGIC


class Reader:
    """The members of an archive in order.

    Args:
        most: bytes that the archive may have; for one that is compressed, where its length does not bound them.
    """

    def __init__(self, file: IO[bytes], most: int | None = None) -> None:
        self._file, self._most = file, most
        self._at = 0

    def members(self) -> Iterator[Member]:
        """The regular files. Between two of them, `read` gives the content of the first.

        Raises:
            TarError: it is not a tar archive, or damaged.
            EOFError: it is cut short.
        """
        name: str | None = None
        size: int | None = None
        for _ in range(_MOST_MEMBERS):
            header = self._take(_BLOCK)
            if not header.strip(b"\0"):
                return
            _check_sum(header)
            kind, declared = header[156:157], _number(header[124:136])
            if declared < 0:
                raise TarError(f"it has a member of {declared} bytes")
            if kind in (_LONG_NAME, _LONG_LINK, _EXTENDED, _EXTENDED_FOR_ALL):
                if declared > _LONGEST_TEXT:
                    raise TarError(f"it has a name of {declared} bytes")
                text = self._take(_whole_blocks(declared))[:declared]
                if kind == _LONG_NAME:
                    name = _text(text)
                elif kind == _EXTENDED:
                    own_name, own_size = _attributes(text)
                    name, size = own_name or name, own_size
                continue
            if kind == _SPARSE:
                raise TarError("it has a sparse file")
            length = declared if size is None else size
            end = self._at + _whole_blocks(length)
            if kind in _REGULAR:
                yield Member(name or _name(header), self._at, length)
            self._skip(end - self._at)
            name = size = None
        raise TarError(f"it has more than {_MOST_MEMBERS} members")

    def read(self, member: Member) -> bytes:
        """The content of the member that was yielded last."""
        assert self._at == member.offset, "members are read in order"
        return self._take(member.size)

    def rest(self) -> None:
        """Read to the end, where a compressed archive has its checksum."""
        while piece := self._file.read(_AT_ONCE):
            self._at += len(piece)
            self._refuse_more()

    def _take(self, count: int) -> bytes:
        content = self._file.read(count)
        self._at += len(content)
        self._refuse_more()
        if len(content) < count:
            raise EOFError("it ends within a member" if self._at else "it is empty")
        return content

    def _skip(self, count: int) -> None:
        if self._file.seekable() and self._most is None:
            length = self._file.seek(0, io.SEEK_END)
            if self._at + count > length:
                raise EOFError("it ends within a member")
            self._at = self._file.seek(self._at + count)
            return
        while count:
            count -= len(self._take(min(count, _AT_ONCE)))

    def _refuse_more(self) -> None:
        if self._most is not None and self._at > self._most:
            raise TarError(f"it has more than {self._most} bytes")


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _check_sum(header: bytes) -> None:
    """The sum of the header's bytes, with spaces in the place of the sum itself; some writers add up signed bytes."""
    others = header[:148] + b" " * 8 + header[156:]
    signed = sum(others) - 256 * sum(byte > 127 for byte in others)
    if _number(header[148:156]) not in (sum(others), signed):
        raise TarError("it is not a tar archive, or damaged: a header has a wrong checksum")


def _number(field: bytes) -> int:
    """Octal digits, or a binary number if the first byte says so."""
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        return value - 256 ** (len(field) - 1) if field[0] == 0xFF else value
    digits = field.split(b"\0", 1)[0].strip()
    if not all(byte in b"01234567" for byte in digits):
        raise TarError("it is not a tar archive, or damaged: a number in a header cannot be read")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def _attributes(text: bytes) -> tuple[str | None, int | None]:
    """Name and size from attributes of the form "LENGTH KEY=VALUE\\n"."""
    name: str | None = None
    size: int | None = None
    at = 0
    while at < len(text) and text[at : at + 1] != b"\0":
        digits = text[at : at + 10].split(b" ", 1)[0]
        if not digits.isdigit() or not 5 <= int(digits) <= len(text) - at:
            raise TarError("it has damaged attributes")
        key, _, value = text[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        if key == b"path":
            name = value.decode(errors="replace")
        elif key == b"size":
            if not value.isdigit() or len(value) > 15:
                raise TarError("it has damaged attributes")
            size = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise TarError("it has a sparse file")
        at += int(digits)
    return name, size
