"""Arrays of anybody's files: nothing is unpickled, and damage is one error."""

import io
import zipfile

import numpy as np
import pytest

from cld_core import npz
from cld_core.digests import checksum
from cld_core.npz import DamagedError

ARRAYS = {
    "floats": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "scalar": np.array(3),
    "text": np.array("über"),
    "empty": np.empty((0, 5), np.float32),
}


def member(array):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def archive(path, members):
    with zipfile.ZipFile(path, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    with (tmp_path / "a.npz").open("rb") as file, npz.arrays(file) as content:
        assert npz.shapes(content) == {name: array.shape for name, array in ARRAYS.items()}
    read, digest = npz.load(tmp_path / "a.npz")
    assert digest == checksum(tmp_path / "a.npz")
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert np.array_equal(read[name], array)
        assert read[name].flags.writeable


@pytest.mark.parametrize(
    "members",
    [
        {"a.npy": member(np.array([{}]))},
        {"a.npy": member(np.zeros(3))[:-8]},
        {"a.npy": b"\x93NUMPY\1\0\x10\0{'descr': '<f8'}"},
        {"a.npy": b"text"},
        {"a.txt": b"text"},
    ],
    ids=["object", "cut", "header", "text", "other"],
)
def test_what_is_not_an_array(tmp_path, members):
    with pytest.raises(DamagedError) as caught:
        npz.load(archive(tmp_path / "a.npz", members))
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = archive(tmp_path / "a.npz", {"a.npy": member(np.full(24, 7, np.uint8))})
    content = bytearray(path.read_bytes())
    content[content.index(b"\7" * 24) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="CRC"):
        npz.load(path)
    for other in (b"", b"text", member(np.zeros(3)), bytes(content[:100])):
        path.write_bytes(other)
        with pytest.raises(DamagedError):
            npz.load(path)
