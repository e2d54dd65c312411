"""Arrays of anybody's files: what they say is compared with what is there before any memory is taken."""

import io
import struct
import zipfile

import numpy as np
import pytest

from cld_core import npz
from cld_core.npz import DamagedError

ARRAYS = {
    "floats": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "scalar": np.array(3),
    "text": np.array("über"),
    "empty": np.empty((0, 5), np.float32),
    "half": np.ones((2, 2, 2), np.float16),
    "big endian": np.arange(3, dtype=">i8"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    read = npz.load(tmp_path / "a.npz")
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(read[name], array)
        assert read[name].flags.writeable
    assert list(npz.load(tmp_path / "a.npz", ["scalar"])) == ["scalar"]
    with pytest.raises(DamagedError, match="no array other"):
        npz.load(tmp_path / "a.npz", ["other"])


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    raw = text.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(raw) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw


def described(shape="(3,)", descr="'<f8'", content=b"\0" * 24, **more) -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n", **more) + content


def archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def test_members_that_share_their_bytes(tmp_path):
    """Each of many entries names the one member that is there."""
    one = io.BytesIO()
    with zipfile.ZipFile(one, "w") as made:
        made.writestr("a.npy", described(shape="(3000,)", content=b"\0" * 24_000))
        entry = made.infolist()[0]
        for number in range(30):
            copy = zipfile.ZipInfo(f"{number}.npy")
            for name in ("header_offset", "CRC", "file_size", "compress_size"):
                setattr(copy, name, getattr(entry, name))
            made.filelist.append(copy)
        made._didModify = True
    (tmp_path / "a.npz").write_bytes(one.getvalue())
    with pytest.raises(DamagedError, match="more than the file"):
        npz.load(tmp_path / "a.npz")


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = archive(tmp_path / "a.npz", {"a.npy": described(content=b"\7" * 24)})
    flip(path, path.read_bytes().index(b"\7" * 24) + 3)
    with pytest.raises(DamagedError, match="CRC"):
        npz.load(path)


def test_many_members_and_other_compression(tmp_path):
    with pytest.raises(DamagedError, match="65 members"):
        npz.load(archive(tmp_path / "a.npz", {f"{number}.npy": described() for number in range(65)}))
    with pytest.raises(DamagedError, match="compressed in another way"):
        npz.load(archive(tmp_path / "b.npz", {"a.npy": described()}, zipfile.ZIP_LZMA))
    with pytest.raises(DamagedError, match="a name"):
        npz.load(archive(tmp_path / "c.npz", {"a\x1b[31m.npy": described()}))
