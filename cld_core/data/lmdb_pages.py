"""Whether the pages of an LMDB file can be read, seen without LMDB.

LMDB maps its file and follows the numbers in it. If the file was cut, or a number in it is wrong, the process ends with
a bus error or an assertion of LMDB's own, which nothing can catch. So the pages that lead to the images are looked at
before: a few hundred of an image set. The images' own pages are not read.

Page: number u64, pad u16, flags u16, lower u16, upper u16, then the offsets u16 of its nodes, of which there are
(lower - 16)/2. Node of a leaf: size u32, flags u16, length of the key u16, key, value (or, if "big", the number u64 of
the first of the pages that hold it). Node of a branch: the number of a page in the 48 bits of size and flags, length of
the key, key. All little-endian, which is how LMDB writes them on x86-64 and ARM.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cld_core.errors import DataError
from cld_core.files import opened

_HEADER = 16
_NODE = 8
_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_BIG = 0x01
_INTEGER_KEYS = 0x08
_MAGIC, _VERSION = 0xBEEFC0DE, 1
# Fields of the header of a file: magic, version, address, size of the map, two trees, last page, transaction.
_META_FORMAT = struct.Struct("<IIQQ")
_TREE_FORMAT = struct.Struct("<IHHQQQQQ")
_PAGE_SIZES = tuple(1 << power for power in range(9, 17))
_NO_ROOT = 2**64 - 1
# LMDB's own limits: levels of a tree, bytes of a key.
_DEEPEST, _LONGEST_KEY = 32, 511
# LMDB may leave pages that it freed at once unwritten at the end of a sound file.
_UNWRITTEN = 16


@dataclass(frozen=True)
class _Tree:
    """One of the two trees of a file: that of free pages, and that of the entries."""

    page_size: int
    flags: int
    depth: int
    entries: int
    root: int


@dataclass(frozen=True)
class _Meta:
    free: _Tree
    main: _Tree
    last_page: int
    transaction: int


class _Damage(Exception):
    """What is wrong with a file."""


class _Cut(Exception):
    """How many bytes there are of how many."""


class _OtherKind(Exception):
    """Why it is not an LMDB file of this kind at all."""


def require_sound(folder: Path, *, writing: bool = False) -> None:
    """Refuse an LMDB folder whose pages LMDB could not read without harm to this process.

    Args:
        writing: the file will be written to: LMDB then also follows what it knows of free pages.

    Raises:
        DataError: the file is missing, no regular file, cut short or damaged.
    """
    path = folder / "data.mdb"
    try:
        with opened(path, follow=True) as file:
            _Pages(file).check(writing)
    except OSError as error:
        raise DataError(f"{folder} cannot be opened as an LMDB file: {error.strerror} (data.mdb).") from error
    except _OtherKind as error:
        raise DataError(f"{folder} cannot be opened as an LMDB file: {error}. Copy or prepare it again.") from error
    except _Cut as error:
        raise DataError(f"{path} is cut short: {error}. Copy or prepare it again.") from error
    except _Damage as error:
        raise DataError(f"{path} is damaged: {error}. Copy or prepare it again.") from error


class _Pages:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._bytes = os.fstat(file.fileno()).st_size
        self._meta = self._newest_meta()
        self._size = self._meta.free.page_size
        # Pages that lie in the file completely.
        self._pages = min(self._bytes // self._size, self._meta.last_page + 1)
        self._seen: set[int] = set()
        self._pages_of_values = 0

    def check(self, writing: bool) -> None:
        needed = (self._meta.last_page + 1 - _UNWRITTEN) * self._size
        if self._bytes < needed:
            raise _Cut(f"{self._bytes} bytes of about {needed}")
        if self._meta.main.flags or self._meta.free.flags & ~_INTEGER_KEYS:
            raise _OtherKind("it is not a plain table of keys and values")
        self._walk(self._meta.main, overflow=writing)
        if writing:
            self._walk(self._meta.free, overflow=True, free=True)

    def _newest_meta(self) -> _Meta:
        first = self._read_meta(0)
        second = self._read_meta(first.free.page_size)
        if second.free.page_size != first.free.page_size:
            raise _Damage("its two headers differ in the size of a page")
        return second if second.transaction > first.transaction else first

    def _read_meta(self, at: int) -> _Meta:
        self._file.seek(at)
        raw = self._file.read(_HEADER + _META_FORMAT.size + 2 * _TREE_FORMAT.size + 16)
        if len(raw) < _HEADER + _META_FORMAT.size + 2 * _TREE_FORMAT.size + 16:
            raise _OtherKind(f"it has {self._bytes} bytes")
        flags = struct.unpack_from("<H", raw, 10)[0]
        magic, version, _, _ = _META_FORMAT.unpack_from(raw, _HEADER)
        if not flags & _META or magic != _MAGIC:
            raise _OtherKind("it has another beginning")
        if version != _VERSION:
            raise _OtherKind(f"it has version {version} of the format, not {_VERSION}")
        at = _HEADER + _META_FORMAT.size
        trees = []
        for _ in range(2):
            page_size, tree_flags, depth, _, _, _, entries, root = _TREE_FORMAT.unpack_from(raw, at)
            trees.append(_Tree(page_size, tree_flags, depth, entries, root))
            at += _TREE_FORMAT.size
        last_page, transaction = struct.unpack_from("<QQ", raw, at)
        if trees[0].page_size not in _PAGE_SIZES:
            raise _Damage(f"its pages have {trees[0].page_size} bytes")
        if last_page >= 2**48:
            raise _Damage(f"its last page is number {last_page}")
        return _Meta(trees[0], trees[1], last_page, transaction)

    def _walk(self, tree: _Tree, *, overflow: bool, free: bool = False) -> None:
        """Follow a tree from its root, page by page; each belongs to one place in it."""
        if tree.root == _NO_ROOT:
            if tree.entries:
                raise _Damage("its entries have no root")
            return
        if not 1 <= tree.depth <= _DEEPEST:
            raise _Damage(f"it is {tree.depth} levels deep")
        level, entries = [tree.root], 0
        for depth in range(1, tree.depth + 1):
            is_leaf, below = depth == tree.depth, []
            for number in level:
                nodes = self._nodes(number, is_leaf)
                for key_length, at, page in nodes:
                    if is_leaf:
                        self._check_value(page, at, key_length, overflow=overflow, free=free)
                    else:
                        below.append(_branch_target(page, at))
                entries += len(nodes) if is_leaf else 0
            level = below
        if entries != tree.entries:
            raise _Damage(f"it has {entries} entries, and says {tree.entries}")

    def _page(self, number: int) -> bytes:
        if not 2 <= number < self._pages:
            raise _Damage(f"it refers to page {number} of {self._pages}")
        if number in self._seen:
            raise _Damage(f"it refers to page {number} twice")
        self._seen.add(number)
        self._file.seek(number * self._size)
        page = self._file.read(self._size)
        if len(page) < self._size or struct.unpack_from("<Q", page)[0] != number:
            raise _Damage(f"page {number} is not in its place")
        return page

    def _nodes(self, number: int, is_leaf: bool) -> list[tuple[int, int, bytes]]:
        """The nodes of a page: length of the key, place in the page, and the page."""
        page = self._page(number)
        flags, lower, upper = struct.unpack_from("<HHH", page, 10)
        if flags != (_LEAF if is_leaf else _BRANCH):
            raise _Damage(f"page {number} is of kind {flags:#x}")
        if not (_HEADER <= lower <= upper <= self._size) or lower % 2:
            raise _Damage(f"page {number} has bounds that cannot be")
        count = (lower - _HEADER) // 2
        if count < (1 if is_leaf else 2):
            raise _Damage(f"page {number} has {count} nodes")
        found = []
        for at in struct.unpack_from(f"<{count}H", page, _HEADER):
            if not upper <= at <= self._size - _NODE:
                raise _Damage(f"page {number} has a node outside of it")
            (key_length,) = struct.unpack_from("<H", page, at + 6)
            if key_length > _LONGEST_KEY or at + _NODE + key_length > self._size:
                raise _Damage(f"page {number} has a key outside of it")
            found.append((key_length, at, page))
        return found

    def _check_value(self, page: bytes, at: int, key_length: int, *, overflow: bool, free: bool) -> None:
        size, flags = struct.unpack_from("<IH", page, at)
        begin = at + _NODE + key_length
        if flags not in (0, _BIG):
            raise _Damage("it has entries of another kind than values")
        if flags == 0:
            if begin + size > self._size:
                raise _Damage("it has a value that reaches past its page")
            if free:
                self._check_free(page[begin : begin + size])
            return
        if begin + 8 > self._size:
            raise _Damage("it has a value that reaches past its page")
        (first,) = struct.unpack_from("<Q", page, begin)
        pages = -(-(_HEADER + size) // self._size)
        if not 2 <= first <= self._pages - pages:
            raise _Damage(f"a value in pages {first} to {first + pages - 1} lies outside of its {self._pages} pages")
        self._pages_of_values += pages
        if self._pages_of_values > self._pages:
            raise _Damage("its values have more pages than there are")
        if overflow:
            self._check_overflow(first, pages, size, free)

    def _check_overflow(self, first: int, pages: int, size: int, free: bool) -> None:
        """The header of a value's pages, which LMDB believes when it frees them."""
        self._file.seek(first * self._size)
        head = self._file.read(_HEADER + (size if free else 0))
        number, _, flags, count = struct.unpack_from("<QHHI", head)
        if number != first or flags != _OVERFLOW or count != pages:
            raise _Damage(f"page {first} does not begin a value of {pages} pages")
        if free:
            self._check_free(head[_HEADER:])

    def _check_free(self, value: bytes) -> None:
        """A list of free pages: its length, then their numbers."""
        if len(value) < 8 or len(value) % 8:
            raise _Damage("its list of free pages is damaged")
        count, *numbers = struct.unpack(f"<{len(value) // 8}Q", value)
        last = self._meta.last_page
        if count > len(numbers) or not all(2 <= number <= last for number in numbers[:count]):
            raise _Damage("its list of free pages is damaged")


def _branch_target(page: bytes, at: int) -> int:
    low, high, top = struct.unpack_from("<HHH", page, at)
    return int(low | high << 16 | top << 32)
