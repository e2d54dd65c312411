"""An interrupted preparation leaves no data set; another attempt makes the same one."""

import errno
import io
import os
import signal
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from cld_core.data import prepare as prepare_module
from cld_core.data.prepare import Plan, SourcePart, build, verify
from cld_core.data.store import IMAGES, PROGRESS, partial_path, read_about
from cld_core.errors import DataError, WrongSourceError

SIZE = 4
PARTS = 4


def images_of(number):
    """Three images of a part."""
    return np.random.default_rng(number).integers(0, 256, (3, 3, SIZE, SIZE), dtype=np.uint8)


def plan(read=images_of, size=SIZE, **more):
    parts = [
        SourcePart(
            split="train" if number < PARTS - 1 else "validation",
            name=f"part {number}",
            fingerprint=str(number),
            read=lambda number=number: read(number),
            labels=(0, 1, number % 2),
        )
        for number in range(PARTS)
    ]
    return Plan(name="folder", size=size, source="tests", parts=parts, classes=("a", "b"), **more)


@pytest.fixture(autouse=True)
def _every_part_is_noted(monkeypatch):
    monkeypatch.setattr(prepare_module, "NOTE_EVERY", 0)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data" / "set"


@pytest.fixture
def whole(tmp_path):
    """A preparation that nothing disturbed."""
    about = build(plan(), tmp_path / "undisturbed")
    assert (about.splits["train"].count, about.splits["validation"].count) == (9, 3)
    return about


def run_and_die(out, parts):
    """A process that prepares and is killed, without any chance to tidy up, after so many parts."""

    def die(part, images, total):
        if images > 3 * parts:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        build(plan(), out, die)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_killed_again_and_again(out, whole):
    for parts in (0, 1, 2, 2, 3):
        run_and_die(out, parts)
        assert not out.exists()
    assert build(plan(), out) == whole
    assert build(plan(lambda number: pytest.fail("it was read again")), out) == verify(out)


class Killed(BaseException):
    pass


class Interrupted:
    """Of the calls that write, one fails, by its number: before it has an effect, or after."""

    def __init__(self, monkeypatch, number, error, *, after):
        self.left = number
        self._error = error
        self._after = after
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))
        # Behind a write that has failed, a buffer writes again.
        write = io.FileIO.write if after else self._wrapped(io.FileIO.write)

        class File(io.FileIO):
            def write(self, content):
                return write(self, content)

        monkeypatch.setattr(
            prepare_module,
            "open",
            lambda path, mode: io.BufferedRandom(File(path, mode)),
            raising=False,
        )

    def _wrapped(self, call):
        def wrapped(*arguments, **options):
            self.left -= 1
            if self.left != 0:
                return call(*arguments, **options)
            if self._after:
                call(*arguments, **options)
            raise self._error

        return wrapped


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")])
def test_interrupted_at_every_write(tmp_path, whole, monkeypatch, error, after):
    interruptions = 0
    for number in range(1, 100):
        out = tmp_path / f"set{number}"
        with monkeypatch.context() as patch:
            interrupted = Interrupted(patch, number, error, after=after)
            try:
                build(plan(), out)
            except (Killed, DataError, OSError):
                interruptions += 1
        if interrupted.left > 0:
            break
        assert not out.exists() or read_about(out) == whole
        assert build(plan(), out) == whole
        assert verify(out) == whole
        assert not partial_path(out).exists()
    assert interruptions > 20


def test_parts_that_changed_are_made_again_and_those_before_them_are_not(out):
    def broken(number):
        if number == 2:
            raise DataError("the third part is damaged")
        return images_of(number)

    with pytest.raises(DataError, match=r"damaged\. The finished part .*6 images, 2 of 4 pieces"):
        build(plan(broken), out)
    read = []
    build(plan(lambda number: read.append(number) or images_of(number)), out)
    assert read == [2, 3]
    other = plan()
    other.parts[1] = SourcePart(**{**vars(other.parts[1]), "fingerprint": "new"})
    with pytest.raises(
        WrongSourceError, match=r"already holds images of 4x4.*choose another --out"
    ):
        build(other, out)


def test_a_set_that_was_cut_short_is_not_called_complete(out):
    build(plan(), out)
    os.truncate(out / IMAGES, 200)
    with pytest.raises(
        DataError, match=rf"has 200 bytes.*copied incompletely.*Remove {out} and prepare it again"
    ):
        build(plan(), out)


@pytest.mark.parametrize("damage", ["text", "images", "pixels"])
def test_a_list_of_finished_parts_that_is_wrong_counts_as_none(out, whole, damage):
    run_and_die(out, 2)
    progress = partial_path(out) / PROGRESS
    if damage == "images":
        os.truncate(partial_path(out) / IMAGES, 200)
    elif damage == "pixels":
        with open(partial_path(out) / IMAGES, "r+b") as file:
            file.seek(150)
            file.write(bytes(9))
    else:
        progress.write_text("{")
    assert build(plan(), out) == whole


def test_nothing_is_left_of_an_attempt_that_finished_nothing(out):
    broken = Mock(side_effect=DataError("the second picture is damaged"))
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"damaged\. 0 images were finished, so nothing is kept"
        ):
            build(plan(broken), out)
        assert os.listdir(out.parent) == []
    partial_path(out).mkdir()
    (partial_path(out) / "mine.txt").write_text("keep")
    with pytest.raises(DataError):
        build(plan(broken), out)
    assert (partial_path(out) / "mine.txt").read_text() == "keep"


def test_what_is_there_is_never_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(WrongSourceError, match="is not a prepared data set"):
        build(plan(), tmp_path / "mine")


def test_two_at_a_time(out):
    def also(*_):
        with pytest.raises(DataError, match="Another process is writing"):
            build(plan(), out)

    build(plan(), out, also)
