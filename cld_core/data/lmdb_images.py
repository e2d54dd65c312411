"""Images in LMDB files of the published form: raw bytes (H, W, 3) under the keys "0", "1", ..."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import lmdb
import numpy as np

from cld_core.errors import DataError

# Red, green, blue.
_CHANNELS = 3
# LMDB may leave pages that it freed at once unwritten at the end of a sound file.
_UNWRITTEN_PAGES = 16
_AGAIN = "Copy or prepare it again."


def published(root: Path, split: str) -> "LmdbReader | None":
    """The images of a split in a folder of LMDB files, `SPLIT.lmdb` or `SPLIT`; None if there are none.

    Raises:
        DataError: they cannot be read, or are something else.
    """
    for folder in (root / f"{split}.lmdb", root / split):
        if (folder / "data.mdb").is_file():
            return LmdbReader(folder)
    return None


class LmdbReader:
    """The images of an LMDB folder, by index, for any number of threads.

    Attributes:
        shape: (n, 3, H, W) of all of them.
        bytes: size of the file.
        about: the number of images and the size of the file in words, by which other files are told from it.

    Raises:
        DataError: the file is cut short, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        file = (self.path / "data.mdb").stat()
        self.bytes = file.st_size
        try:
            self._env = _environment(str(self.path), file.st_dev, file.st_ino)
            count, info = self._env.stat()["entries"], self._env.info()
            # Reading beyond the end of a mapped file would end this process without a message.
            expected = (info["last_pgno"] + 1 - _UNWRITTEN_PAGES) * self._env.stat()["psize"]
            if self.bytes < expected:
                raise DataError(f"{path} is cut short: {self.bytes} bytes of about {expected}. {_AGAIN}")
            with self._env.begin(buffers=True) as transaction:
                length = len(transaction.get(b"0") or b"")
        except (lmdb.Error, OSError) as error:
            raise DataError(f"{path} cannot be opened as an LMDB file: {error}. {_AGAIN}") from error
        size = math.isqrt(length // _CHANNELS)
        if not size or _CHANNELS * size**2 != length:
            raise DataError(f"{path} has values of {length} bytes under '0', which are not square raw RGB images.")
        self.shape, self.about = (count, _CHANNELS, size, size), f"{count} images, {self.bytes} bytes"
        self[[count - 1]]

    def __getitem__(self, indices: "Sequence[int] | np.ndarray") -> np.ndarray:
        """Images by index, uint8 of shape (number of indices, 3, H, W).

        Raises:
            DataError: an index is missing, or its value has another length.
        """
        images = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        try:
            with self._env.begin(buffers=True) as transaction:
                for image, index in zip(images, indices, strict=True):
                    value = transaction.get(str(index).encode()) or b""
                    if len(value) != image.nbytes:
                        text = f"has {len(value)} bytes, not {image.nbytes}"
                        raise DataError(f"Image {index} of {self.path} {text}. {_AGAIN}")
                    pixels = np.frombuffer(value, dtype=np.uint8).reshape(*self.shape[2:], _CHANNELS)
                    image[:] = pixels.transpose(2, 0, 1)
        except (lmdb.Error, OSError) as error:
            raise DataError(f"{self.path} cannot be read: {error}. {_AGAIN}") from error
        return images


@functools.cache
def _environment(path: str, device: int, inode: int) -> lmdb.Environment:
    """An open environment, of which LMDB allows one for each file in a process."""
    return lmdb.open(path, readonly=True, create=False, lock=False, readahead=False)
