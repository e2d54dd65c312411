"""Files that are damaged or made up: reading one succeeds, or ends with one line, and runs nothing.

`tests.fuzz` makes the files: valid ones of each kind with other bytes, values, sizes and links.
"""

import io
import json
import random
import shutil
import struct
import zipfile
import zlib
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from cld_core import npz
from cld_core.data import folder as folder_module
from cld_core.data.folder import MOST_PIXELS
from cld_core.data.prepare import prepare
from cld_core.digests import checksum
from cld_core.errors import CldError, DataError
from cld_core.npz import DamagedError
from cld_core.run import RunFolder, code
from cld_core.run.checkpoints import newest_good, sidecar_of
from cld_core.run.evaluations import current_report, sweeps_of
from cld_core.run.tunings import solutions_of
from cld_core.run.work import evaluations_of
from tests.fuzz.campaign import campaign
from tests.fuzz.mutations import changed, damaged, json_bytes
from tests.fuzz.targets import TARGETS
from tests.fuzz.tensors import array_bytes
from tests.support.paths import FIXTURES

CASES = 15


@pytest.mark.parametrize("kind", TARGETS)
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(kind):
    assert campaign(TARGETS[kind], seed=1, cases=CASES) == []


# Records: the JSON files of a run and the lines of its ledgers.


def without_errors(read):
    try:
        return read()
    except CldError as error:
        if not str(error).isprintable():
            raise AssertionError(f"{error!r} steers the terminal") from error
        return None


def read_all(run):
    run.identity()
    run.progress()
    run.ledger.history()
    code.read(code.folder_of(run.path))
    for step in run.checkpoint_steps():
        sidecar_of(run.checkpoint_file(step))
    for read in (newest_good, solutions_of, sweeps_of, RunFolder.recipe):
        without_errors(partial(read, run))
    for work in evaluations_of(run):
        work.ledger.history()
        without_errors(work.missing)
        current_report(work.folder)


@pytest.fixture
def run(tmp_path):
    return RunFolder(shutil.copytree(FIXTURES / "run", tmp_path / "run"))


RECORDS = [file.relative_to(FIXTURES / "run") for file in (FIXTURES / "run").rglob("*.json*")]


@pytest.mark.parametrize("file", RECORDS, ids=str)
def test_a_damaged_record_counts_as_missing_or_is_refused_in_one_line(run, file):
    sound = (run.path / file).read_bytes()
    for number in range(CASES):
        rng = random.Random(number)
        lines = sound.splitlines() if file.suffix == ".jsonl" else [sound]
        place = rng.randrange(len(lines))
        line = lines[place]
        if number % 2:
            lines[place] = damaged(rng, line)
        else:
            lines[place] = json_bytes(changed(rng, json.loads(line)))
        (run.path / file).write_bytes(b"\n".join(lines))
        read_all(run)


# Checkpoints.


@pytest.mark.parametrize(
    "name", ["step_00000120.bak.json", "step_.json", "step_²²²²²²²².json", f"step_{'9' * 99}.json"]
)
def test_other_files_among_the_checkpoints_are_ignored(run, name):
    shutil.copy(run.checkpoint_file(120).with_suffix(".json"), run.checkpoints / name)
    assert run.checkpoint_steps() == [120]


# Archives and pictures.


def with_members(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def encoded(form="PNG"):
    out = io.BytesIO()
    Image.new("RGB", (20, 20)).save(out, form)
    return out.getvalue()


def make(content):
    return folder_module._make(folder_module.Member("a.png", len(content), lambda: content), 8)


def test_a_picture_that_is_a_program_is_not_run(monkeypatch):
    started = Mock()
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    with pytest.raises(DataError, match="format"):
        make(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    started.assert_not_called()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_usual_formats_are_decoded(form):
    assert make(encoded(form)).shape == (1, 3, 8, 8)


def test_a_size_is_checked_before_anything_is_decoded(monkeypatch):
    data = bytearray(encoded())
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    struct.pack_into(">II", data, 16, MOST_PIXELS // 1000 + 1, 1000)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    with pytest.raises(DataError, match="pixels"):
        make(bytes(data))


def test_a_zip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MOST_BYTES", 100_000)
    source = with_members(
        tmp_path / "p.zip", {"a.png": encoded(), "b.png": bytes(10**6)}, zipfile.ZIP_DEFLATED
    )
    with pytest.raises(DataError, match=r"b\.png .* 1000000 bytes"):
        prepare("folder", source, tmp_path / "out", size=8, split=0)


ARRAYS = {
    "floats": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "scalar": np.array(3),
    "text": np.array("über"),
    "empty": np.empty((0, 5), np.float32),
}


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


def test_a_flipped_bit_is_noticed(tmp_path):
    path = with_members(tmp_path / "a.npz", {"a.npy": array_bytes(np.full(24, 7, np.uint8))})
    content = bytearray(path.read_bytes())
    content[content.index(b"\7" * 24) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="CRC"):
        npz.load(path)
    for other in (b"text", array_bytes(np.zeros(3)), bytes(content[:100])):
        path.write_bytes(other)
        with pytest.raises(DamagedError):
            npz.load(path)
    with pytest.raises(DamagedError, match="allow_pickle"):
        npz.load(with_members(path, {"a.npy": array_bytes(np.array([{}]))}))
