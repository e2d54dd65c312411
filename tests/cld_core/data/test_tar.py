"""Tar archives are read forwards: what they say of themselves cannot take the reader anywhere else."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from cld_core.data.celebahq import plan_celebahq
from cld_core.data.tar import Reader, decompressed
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


@pytest.mark.parametrize("size", [100, 512, 600, 1200])
def test_cut_archives(tmp_path, size):
    path = archive(tmp_path / "t.tar")
    os.truncate(path, size)
    with pytest.raises(DataError, match="not a complete"):
        plan_celebahq(path, 16)
