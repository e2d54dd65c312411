"""LMDB files are looked at before LMDB maps them: what is wrong with one is an error, not the end of the process."""

import os
import random
import shutil
import struct

import lmdb
import pytest

from cld_core.data.lmdb_pages import require_sound
from cld_core.data.lmdb_store import LmdbReader, LmdbWriter
from cld_core.errors import DataError

PAGE = 4096


def write(path, count, size, removed=0):
    """``count`` values of ``size`` bytes under str(index), and ``removed`` more that were taken out again."""
    path.mkdir()
    rng = random.Random(1)
    with lmdb.open(str(path), map_size=1 << 26) as env:
        for first in range(0, count + removed, 50):
            with env.begin(write=True) as transaction:
                for index in range(first, min(first + 50, count + removed)):
                    transaction.put(str(index).encode(), rng.randbytes(size))
        with env.begin(write=True) as transaction:
            for index in range(count, count + removed):
                transaction.delete(str(index).encode())
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three levels of pages would need more entries than a test should write; two have all kinds of pages."""
    root = tmp_path_factory.mktemp("lmdb")
    return {"small": write(root / "small", 400, 192, removed=30), "large": write(root / "large", 300, 3072, removed=30)}


@pytest.fixture
def copied(made, tmp_path):
    return lambda which: shutil.copytree(made[which], tmp_path / which)


def patch(path, at, raw):
    with (path / "data.mdb").open("r+b") as file:
        file.seek(at)
        file.write(raw)


def newest_meta(path):
    raw = (path / "data.mdb").read_bytes()
    return max((struct.unpack_from("<Q", raw, page * PAGE + 144)[0], page) for page in (0, 1))[1] * PAGE


@pytest.mark.parametrize("which", ["small", "large"])
@pytest.mark.parametrize("writing", [False, True])
def test_sound_files_pass(made, which, writing):
    require_sound(made[which], writing=writing)


def test_an_empty_file_that_lmdb_made(tmp_path):
    with LmdbWriter(tmp_path / "new"):
        pass
    require_sound(tmp_path / "new", writing=True)
    with LmdbWriter(tmp_path / "new") as writer:
        writer.put(0, [b"x"])


@pytest.mark.parametrize("which", ["small", "large"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.6])
def test_cut_files_are_refused(copied, which, share):
    """Reading one ends the process with a bus error."""
    path = copied(which)
    os.truncate(path / "data.mdb", int(share * (path / "data.mdb").stat().st_size))
    with pytest.raises(DataError, match=r"(cut short|damaged|cannot be opened).*again\.$"):
        LmdbReader(path)


def test_a_damaged_list_of_free_pages_is_refused_before_writing(copied):
    path = copied("small")
    raw = (path / "data.mdb").read_bytes()
    root = struct.unpack_from("<Q", raw, newest_meta(path) + 80)[0]
    (offset,) = struct.unpack_from("<H", raw, root * PAGE + 16)
    patch(path, root * PAGE + offset + 16, struct.pack("<Q", 2**60))
    LmdbReader(path)
    with pytest.raises(DataError, match="list of free pages"):
        LmdbWriter(path)
