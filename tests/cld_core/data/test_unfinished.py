"""What lies in the folder of an unfinished preparation is not trusted, and an empty one does not stay."""

import json
import os

import pytest

from cld_core.data import build as build_module
from cld_core.data.build import Plan, Unit, build
from cld_core.data.store import FORMAT, PROGRESS, partial_path, read_manifest
from cld_core.errors import DataError

SIZE = 4
IMAGE = bytes(range(48))


def plan(read=lambda: [IMAGE] * 3):
    units = [Unit(name=f"part {number}", fingerprint=str(number), read=read) for number in range(2)]
    return Plan(name="folder", size=SIZE, source="tests", units={"train": units, "validation": units[:1]})


def broken():
    yield IMAGE
    raise DataError("the second picture is damaged")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data" / "set"


def test_nothing_is_left_of_an_attempt_that_finished_nothing(out):
    for _ in range(2):
        with pytest.raises(DataError, match=r"damaged\. 0 images were finished, so nothing is kept"):
            build(plan(broken), out)
        assert os.listdir(out.parent) == []


def test_other_files_stay(out):
    partial_path(out).mkdir(parents=True)
    (partial_path(out) / "mine.txt").write_text("keep")
    with pytest.raises(DataError):
        build(plan(broken), out)
    assert (partial_path(out) / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("name", ["write_manifest", "sync_folder"])
def test_a_disk_that_is_full_at_the_end(out, monkeypatch, name):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(build_module, name, full)
        with pytest.raises(DataError, match=r"No space left on device\. The finished part is kept in .*9 images"):
            build(plan(), out)
    if name == "write_manifest":
        assert not out.exists()
    assert build(plan(), out).splits["train"].count == 6
    assert read_manifest(out) is not None


UNIT = {"name": "part 0", "fingerprint": "0", "images": 3, "checksum": "0" * 32}


def test_more_finished_images_than_there_are(out):
    """The list says three images, the file has none."""
    partial_path(out).mkdir(parents=True)
    content = {"format": FORMAT, "size": SIZE, "done": {"train": [UNIT], "validation": []}}
    (partial_path(out) / PROGRESS).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"has 3 entries, not 6"):
        build(plan(), out)
