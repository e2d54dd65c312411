"""Tar archives are read forwards: what they say of themselves cannot take the reader anywhere else."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from cld_core.data.celebahq import plan_celebahq
from cld_core.data.tar import Reader, TarError, decompressed
from cld_core.errors import DataError

FORMATS = [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT]
CONTENTS = {"a/b": b"x" * 700, "a/empty": b"", "a/" + "long" * 20 + "/" + "name" * 20: b"y" * 512}


def archive(path: Path, mode="w", form=tarfile.GNU_FORMAT, contents=CONTENTS) -> Path:
    with tarfile.open(path, mode, format=form) as made:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        made.addfile(folder)
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_members_are_those_of_the_standard_library(tmp_path, form, mode):
    path = archive(tmp_path / "t", mode, form)
    with tarfile.open(path) as theirs:
        expected = [(one.name, one.offset_data, one.size) for one in theirs if one.isreg()]
    with path.open("rb") as file:
        reader = Reader(decompressed(file), most=10**6)
        read = [((one.name, one.offset, one.size), reader.read(one)) for one in reader.members()]
        reader.rest()
    assert [place for place, _ in read] == expected
    assert [content for _, content in read] == list(CONTENTS.values())


def test_names_in_unicode(tmp_path):
    name = "über/" + "é" * 120
    path = archive(tmp_path / "t", form=tarfile.PAX_FORMAT, contents={name: b"x"})
    with path.open("rb") as file:
        assert [one.name for one in Reader(file).members()] == [name]


def with_header(path: Path, number: int, **fields: bytes) -> Path:
    """The header of a member with other fields, and the checksum that belongs to it."""
    places = {"name": 0, "size": 124, "kind": 156, "magic": 257}
    data = bytearray(path.read_bytes())
    headers = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    header = data[headers[number] : headers[number] + 512]
    for name, raw in fields.items():
        header[places[name] : places[name] + len(raw)] = raw
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[headers[number] : headers[number] + 512] = header
    path.write_bytes(data)
    return path


def binary(size: int) -> bytes:
    return (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "fields",
    [
        {"size": binary(-1536)},
        {"size": binary(-(2**62))},
        {"size": binary(2**62)},
        {"size": b"77777777777\0"},
        {"size": b"12x45670123\0"},
        {"kind": b"S"},
        {"kind": b"L"},
        {"kind": b"x"},
        {"kind": b"x", "size": binary(2**40)},
        {"kind": b"L", "size": binary(2**40)},
        {"kind": b"g", "size": binary(-512)},
    ],
    ids=range(11),
)
def test_headers_that_lead_elsewhere(tmp_path, fields):
    """A size below zero keeps `tarfile` reading the same member for ever."""
    path = with_header(archive(tmp_path / "t.tar"), 2, **fields)
    with pytest.raises(DataError) as caught:
        plan_celebahq(path, 16)
    assert "\n" not in str(caught.value)


def test_a_wrong_checksum(tmp_path):
    path = archive(tmp_path / "t.tar")
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"is not a complete \.tar archive .*checksum"):
        plan_celebahq(path, 16)


@pytest.mark.parametrize("size", [100, 512, 600, 1200])
def test_cut_archives(tmp_path, size):
    path = archive(tmp_path / "t.tar")
    os.truncate(path, size)
    with pytest.raises(DataError, match="not a complete"):
        plan_celebahq(path, 16)


def test_attributes_that_say_more_than_there_is():
    for text in (b"999 path=x\n", b"-5 path=x\n", b"5\n", b"x path=y\n", b"12 size=-99\n", b"16 size=1e99999\n"):
        entry = tarfile.TarInfo("x")
        entry.type, entry.size = b"x", len(text)
        raw = entry.tobuf(tarfile.USTAR_FORMAT) + text.ljust(512, b"\0")
        with pytest.raises((TarError, EOFError)):
            list(Reader(io.BytesIO(raw)).members())


def test_an_archive_that_unpacks_to_more_than_it_may(tmp_path):
    path = archive(tmp_path / "t", "w:gz", contents={"zeros": bytes(10**6)})
    with path.open("rb") as file, pytest.raises(TarError, match="more than 100000 bytes"):
        list(Reader(decompressed(file), most=100_000).members())


def test_pipes_and_broken_links_among_the_shards(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}-r04-s-0000-of-0001.tfrecords").write_bytes(b"")
    os.mkfifo(tmp_path / "train-r04-s-0001-of-0002.tfrecords")
    (tmp_path / "train-r04-s-0002-of-0002.tfrecords").symlink_to(tmp_path / "none")
    assert len(plan_celebahq(tmp_path, 16).units["train"]) == 1
