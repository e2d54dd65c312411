"""Images in an LMDB file: raw bytes under str(index), read from any thread."""

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import lmdb
import numpy as np

from cld_core.data.lmdb_pages import require_sound
from cld_core.data.store import CHANNELS
from cld_core.errors import DataError

_FIRST_MAP_BYTES = 64 << 20


class _Handle:
    """An open environment. LMDB allows one per file and process, so all readers of a file share it."""

    def __init__(self, path: Path) -> None:
        require_sound(path)
        try:
            self.env = lmdb.open(str(path), readonly=True, create=False, lock=False, readahead=False)
        except lmdb.Error as error:
            raise DataError(f"{path} cannot be opened as an LMDB file: {error}. Copy or prepare it again.") from error


_open_handles: "weakref.WeakValueDictionary[tuple[int, int], _Handle]" = weakref.WeakValueDictionary()
_open_lock = threading.Lock()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise the errors of a read as `DataError`."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}. Copy or prepare it again.") from error


def _shared_handle(path: Path) -> _Handle:
    try:
        status = os.stat(path / "data.mdb")
    except OSError as error:
        raise DataError(f"{path} is not an LMDB folder: {error.strerror} (data.mdb).") from error
    with _open_lock:
        handle = _open_handles.get((status.st_dev, status.st_ino))
        if handle is None:
            handle = _Handle(path)
            _open_handles[status.st_dev, status.st_ino] = handle
        return handle


class LmdbReader:
    """The images in the LMDB folder ``path``, for any number of threads.

    Raises:
        DataError: the file is missing, damaged or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._handle = _shared_handle(self.path)

    @property
    def _env(self) -> lmdb.Environment:
        return self._handle.env

    @property
    def entries(self) -> int:
        with _reading(self.path):
            return int(self._env.stat()["entries"])

    @property
    def file_bytes(self) -> int:
        with _reading(self.path):
            return os.path.getsize(self.path / "data.mdb")

    def length(self, index: int) -> int | None:
        """Bytes of an image; None if there is no such index."""
        with _reading(self.path), self._env.begin(buffers=True) as transaction:
            value = transaction.get(str(index).encode())
            return None if value is None else len(value)

    def published_size(self) -> int:
        """Height and width of the images in a file of the published form, which has no manifest.

        Raises:
            DataError: the file holds something else.
        """
        length = self.length(0)
        if length is None:
            raise DataError(f"{self.path} has no key '0', so it is not an LMDB file of images in the published form.")
        size = math.isqrt(length // CHANNELS)
        if not size or CHANNELS * size * size != length:
            raise DataError(f"{self.path} has values of {length} bytes, which are not square raw RGB images.")
        return size

    def read(self, indices: Sequence[int], image_bytes: int) -> np.ndarray:
        """The raw bytes of images, uint8 of shape (len(indices), image_bytes).

        Raises:
            DataError: an index is missing, or its value has another length.
        """
        out = np.empty((len(indices), image_bytes), dtype=np.uint8)
        with _reading(self.path), self._env.begin(buffers=True) as transaction:
            for row, index in enumerate(indices):
                value = transaction.get(str(index).encode())
                if value is None:
                    raise DataError(f"{self.path} has no image {index}. Prepare or copy the data set again.")
                if len(value) != image_bytes:
                    raise DataError(
                        f"Image {index} of {self.path} has {len(value)} bytes, not {image_bytes}. "
                        "Prepare or copy the data set again."
                    )
                out[row] = np.frombuffer(value, dtype=np.uint8)
        return out


class LmdbWriter:
    """Writes images under str(index); when `put` returns, they are on disk. One writer per file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        if (path / "data.mdb").exists():
            require_sound(path, writing=True)
        self._env = lmdb.open(str(path), map_size=_FIRST_MAP_BYTES, lock=False, readahead=False)

    def put(self, first: int, images: Sequence[bytes]) -> None:
        """Store ``images`` under ``first``, ``first + 1``, ... in one transaction: all of them or none."""
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    for index, image in enumerate(images, first):
                        transaction.put(str(index).encode(), image)
                return
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])

    def cut(self, count: int) -> None:
        """Remove the images from index ``count`` on."""
        with self._env.begin(write=True) as transaction:
            while transaction.delete(str(count).encode()):
                count += 1

    def close(self) -> int:
        """Close the file and return the number of its entries."""
        entries = int(self._env.stat()["entries"])
        self._env.sync(True)
        self._env.close()
        return entries

    def __enter__(self) -> "LmdbWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._env.close()
