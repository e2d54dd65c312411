"""LMDB files of images: cut, and with any numbers in their pages; read, and written to again."""

from __future__ import annotations

import random
import shutil
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .campaign import Target
from .mutations import damaged

_PAGE = 4096
_SIZES = (8, 32)


@cache
def _files() -> list[tuple[int, bytes]]:
    """Small images lie in the leaves, large ones in pages of their own; some were removed again."""
    import lmdb

    made = []
    for size in _SIZES:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-lmdb-"))
        with lmdb.open(str(folder), map_size=1 << 26) as env:
            for first in range(0, 350, 50):
                with env.begin(write=True) as transaction:
                    for index in range(first, first + 50):
                        transaction.put(str(index).encode(), bytes([index % 256]) * (3 * size * size))
            with env.begin(write=True) as transaction:
                for index in range(300, 350):
                    transaction.delete(str(index).encode())
        made.append((size, (folder / "data.mdb").read_bytes()))
        shutil.rmtree(folder)
    return made


def _odd_pages(rng: random.Random, content: bytes) -> bytes:
    """Numbers in headers of pages, offsets and nodes are others."""
    data = bytearray(content)
    inner = [page for page in range(len(data) // _PAGE) if data[page * _PAGE + 10] & 0x0B]
    for _ in range(rng.randint(1, 3)):
        page = rng.choice([0, 1, *inner]) * _PAGE
        form = rng.choice(("<H", "<I", "<Q"))
        most = 256 ** struct.calcsize(form) - 1
        lower = struct.unpack_from("<H", data, page + 12)[0]
        place = rng.choice((rng.randrange(160), rng.randrange(16, max(17, min(lower, 4000))), rng.randrange(4080)))
        value = rng.choice((0, 1, 2, 16, 17, 4095, 4096, 2**15, 2**31, 2**40, 2**63, most, rng.randrange(most)))
        struct.pack_into(form, data, page + place, value & most)
    return bytes(data)


def _make(rng: random.Random, folder: Path) -> Callable[[], Any]:
    import torch

    from cld_core.data.images import open_images
    from cld_core.data.lmdb_store import LmdbWriter
    from cld_core.data.presence import require
    from cld_core.recipe.data import ImageDataSpec

    size, content = rng.choice(_files())
    path = folder / "train.lmdb"
    path.mkdir()
    match rng.randrange(4):
        case 0:
            content = content[: rng.randrange(len(content))]
        case 1:
            content = damaged(rng, content)
        case _:
            content = _odd_pages(rng, content)
    (path / "data.mdb").write_bytes(content)
    cache = rng.choice(("memory", "disk"))

    def read() -> None:
        require(ImageDataSpec(path=str(folder), size=size))
        images = open_images(folder, "train", size=size, cache=cache)
        for first in range(0, images.n, 64):
            images.batch(torch.arange(first, min(first + 64, images.n)))

    def write() -> None:
        import lmdb

        from cld_core.errors import DataError

        try:
            with LmdbWriter(path) as writer:
                writer.put(200, [bytes(3 * size * size)] * 200)
                writer.cut(250)
                writer.close()
        except lmdb.Error as error:  # as `build` does
            raise DataError(str(error)) from error

    return read if rng.random() < 0.7 else write


def _prepare() -> None:
    import torch

    from cld_core.data import images, presence  # noqa: F401 (forks have them)

    torch.set_num_threads(1)
    _files()


TARGET = Target("lmdb", _make, _prepare)
