"""Batches of a training run: their order, and reading ahead; preparations that are interrupted."""

import errno
import io
import json
import math
import os
import signal
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from cld_core.config.data import Cifar10Spec, ImageDataSpec, ToyDataSpec
from cld_core.data import prepare as prepare_module
from cld_core.data.images import ImageSet, ImageSource, dequantise, order, to_model, to_pixels
from cld_core.data.prepare import Part, Plan, build, verify
from cld_core.data.source import source
from cld_core.data.store import ABOUT, IMAGES, PROGRESS, partial_path, read_about, require
from cld_core.errors import DataError, WrongSourceError
from tests.support.images import make_images, store_images

N, SIZE, BATCH, SEED = 37, 4, 12, 5


def numbered():
    """uint8 of shape (N, 3, SIZE, SIZE): an image shows its index, except in its left column, which is 255."""
    images = np.empty((N, 3, SIZE, SIZE), np.uint8)
    images[:] = np.arange(N)[:, None, None, None]
    images[..., 0] = 255
    return images


def seen(batch):
    """The indices and the flips of a batch of numbered images."""
    flips = batch[:, 0, 0, 0] != 255
    return torch.where(flips, batch[:, 0, 0, 0], batch[:, 0, 0, -1]).tolist(), flips.tolist()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return store_images(tmp_path_factory.mktemp("batches") / "set", {"train": numbered()})


@pytest.fixture(params=["memory", "disk"])
def images(root, request):
    return lambda **keys: closing(ImageSource(ImageDataSpec(path=str(root), size=SIZE, cache=request.param, **keys)))


def shared(world):
    """The rows of each rank."""
    return [slice(BATCH * rank // world, BATCH * (rank + 1) // world) for rank in range(world)]


def batches(of, first, last, rows=slice(0, BATCH)):
    return [to_pixels(of.batch(SEED, 0, step, BATCH, rows)) for step in range(first, last)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_batches_of_one(images, world):
    with images() as of:
        whole = batches(of, 0, 9)
    shares = []
    for rows in shared(world):
        with images() as of:
            shares.append(batches(of, 0, 9, rows))
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step] for share in shares]), batch)
        numbers, flips = seen(batch)
        assert [numbers, flips] == [part.tolist() for part in order(step, BATCH, N, SEED)]


def test_a_resumed_epoch_shows_every_image_once(images):
    numbers = []
    for first, last in ((0, 2), (2, 3), (3, 8), (8, 12)):  # killed after steps 2, 3 and 8; read ahead each time
        with images() as of:
            numbers += [number for batch in batches(of, first, last) for number in seen(batch)[0]]
    for epoch in range(3):
        assert sorted(numbers[epoch * N : (epoch + 1) * N]) == list(range(N))


def test_fresh_noise_changes_no_image_and_another_seed_does(images):
    with images() as of:
        batch = of.batch(SEED, 0, 4, BATCH, slice(0, BATCH))
        assert batch.dtype == torch.float32
        assert torch.equal(of.batch(SEED, 9, 4, BATCH, slice(0, BATCH)), batch)
        assert not torch.equal(of.batch(SEED + 1, 0, 4, BATCH, slice(0, BATCH)), batch)


def test_without_flips(images):
    with images(flip=False) as of:
        assert not any(seen(batches(of, 0, 1)[0])[1])


def test_the_same_on_any_number_of_threads(images):
    with images() as few, images(threads=5) as many:
        for one, other in zip(batches(few, 0, 20), batches(many, 0, 20), strict=True):
            assert torch.equal(one, other)
        assert few.wait_s >= 0


def test_an_error_reaches_the_caller(root, monkeypatch):
    def fail(*_):
        raise DataError("the disk is gone")

    monkeypatch.setattr(ImageSet, "batch", fail)
    before = threading.active_count()
    with (
        closing(ImageSource(ImageDataSpec(path=str(root), size=SIZE, cache="disk"))) as of,
        pytest.raises(DataError, match="the disk is gone"),
    ):
        batches(of, 0, 1)
    assert threading.active_count() == before


def test_a_batch_larger_than_the_set():
    got, _ = order(0, 25, 10, seed=0)
    assert torch.equal(got[:10].sort().values, torch.arange(10))
    assert torch.equal(got[10:20].sort().values, torch.arange(10))
    assert len(set(got[20:].tolist())) == 5


def test_half_are_mirrored_others_in_each_epoch():
    n = 4000
    first, second = (order(epoch, n, n, seed=0)[1] for epoch in (0, 1))
    assert first.dtype == torch.bool
    assert abs(first.float().mean() - 0.5) < 0.03
    assert 0.4 < (first == second).float().mean() < 0.6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(params=["memory", "disk"])
def smooth(prepared, request):
    found = source(ImageDataSpec(path=str(prepared), size=8, cache=request.param))
    assert isinstance(found, ImageSource)
    yield found
    found.close()


def test_test_images_are_dequantised_each_with_its_own_noise(smooth):
    points = smooth.dequantised_test_data(0, 0, 40)
    again = torch.cat([smooth.dequantised_test_data(0, first, first + 8) for first in range(0, 40, 8)])
    assert torch.equal(points, again)
    levels = ((points + 1.0) * 128.0).floor().to(torch.uint8)
    assert torch.equal(levels, smooth.test.batch(torch.arange(40)))
    assert points.min() >= -1.0
    assert points.max() < 1.0
    assert not torch.equal(points, smooth.dequantised_test_data(1, 0, 40))
    with pytest.raises(DataError, match=r"40 validation images.*eval\.points=40"):
        smooth.dequantised_test_data(0, 30, 41)


def test_the_largest_noise_leaves_every_level_where_it_is():
    levels = torch.arange(256, dtype=torch.uint8)
    for noise in (0.0, 1.0 - 2.0**-24):
        points = dequantise(levels, torch.full((256,), noise))
        assert torch.equal(((points.double() + 1.0) * 128.0).floor().to(torch.uint8), levels)
        assert float(points.max()) < 1.0


def test_pixels_survive_the_way_to_the_model_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_pixels(to_model(levels)), levels)
    assert torch.equal(to_pixels(torch.tensor([-3.0, 3.0])), torch.tensor([0, 255], dtype=torch.uint8))
    x = torch.rand(1000) * 2 - 1
    gap = to_pixels(x).float() - to_pixels(x, floor=True).float()
    assert 0.4 < float(gap.mean()) < 0.6, "half a grey level"
    middle = dequantise(levels, torch.full((256,), 0.5))
    assert torch.equal(to_pixels(middle), levels)


@pytest.mark.parametrize("floor", [False, True])
def test_numbers_that_are_not_finite_become_defined_grey_levels(floor):
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0]).repeat(100)
    assert to_pixels(x, floor=floor).view(100, 4).unique(dim=0).tolist() == [[0, 255, 0, 127 + (not floor)]]
    assert to_pixels(x.to(torch.bfloat16), floor=floor).view(100, 4)[:, :3].unique(dim=0).tolist() == [[0, 255, 0]]


def test_missing_data_are_noticed_before_anything_is_submitted(prepared, tmp_path):
    require(ToyDataSpec())
    require(ImageDataSpec(path=str(prepared), size=8))
    with pytest.raises(DataError, match=r"no prepared data set.*cldctl data prepare cifar10 --source PATH --out"):
        require(Cifar10Spec(path=str(tmp_path / "none")))
    with pytest.raises(DataError, match="holds folder, not cifar10"):
        require(Cifar10Spec(path=str(prepared)))
    with pytest.raises(DataError, match="8x8, not 16x16"):
        require(ImageDataSpec(path=str(prepared), size=16))
    (tmp_path / "published" / "train.lmdb").mkdir(parents=True)
    (tmp_path / "published" / "train.lmdb" / "data.mdb").touch()
    with pytest.raises(DataError, match=r"train.lmdb cannot be opened as an LMDB file.*cldctl data prepare cifar10"):
        require(Cifar10Spec(path=str(tmp_path / "published")))
    (tmp_path / "half.partial").mkdir()
    (tmp_path / "half.partial" / PROGRESS).touch()
    with pytest.raises(DataError, match=r"unfinished.*--out \S*half$"):
        require(Cifar10Spec(path=str(tmp_path / "half")))


PARTS = 4


def images_of(number):
    """Three images of a part."""
    return np.random.default_rng(number).integers(0, 256, (3, 3, SIZE, SIZE), dtype=np.uint8)


def plan(read=images_of, size=SIZE, **more):
    parts = [
        Part(
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
    pid = os.fork()
    if pid == 0:
        build(plan(), out, lambda part, images, _: images <= 3 * parts or os.kill(os.getpid(), signal.SIGKILL))
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
    """Calls that write, of which the one with this number fails: before it has an effect, or after."""

    def __init__(self, monkeypatch, number, error, *, after):
        self.left, self._error, self._after = number, error, after
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))
        # Behind a write that has failed, a buffer writes again.
        write = io.FileIO.write if after else self._wrapped(io.FileIO.write)

        class File(io.FileIO):
            def write(self, content):
                return write(self, content)

        monkeypatch.setattr(
            prepare_module, "open", lambda path, mode: io.BufferedRandom(File(path, mode)), raising=False
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


def test_a_full_disk_says_what_is_kept(out, whole, monkeypatch):
    def full(path, content, write=prepare_module.write_json):
        if path.name == ABOUT:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_json", full)
        with pytest.raises(DataError, match=r"No space left on device\. The finished part is kept in .*12 images"):
            build(plan(), out)
    assert build(plan(lambda number: pytest.fail("it was read again")), out) == whole


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
    other.parts[1] = Part(**{**vars(other.parts[1]), "fingerprint": "new"})
    with pytest.raises(WrongSourceError, match=r"already holds folder at 4x4.*choose another --out"):
        build(other, out)


@pytest.mark.parametrize("damage", ["text", "numbers", "images", "pixels"])
def test_a_list_of_finished_parts_that_is_wrong_counts_as_none(out, whole, damage):
    run_and_die(out, 2)
    progress = partial_path(out) / PROGRESS
    if damage == "images":
        os.truncate(partial_path(out) / IMAGES, 200)
    elif damage == "pixels":
        with open(partial_path(out) / IMAGES, "r+b") as file:
            file.seek(150)
            file.write(bytes(9))
    elif damage == "text":
        progress.write_text("{")
    else:
        content = json.loads(progress.read_text())
        content["splits"]["train"]["count"] = "many"
        progress.write_text(json.dumps(content))
    assert build(plan(), out) == whole


def test_nothing_is_left_of_an_attempt_that_finished_nothing(out):
    def broken(number):
        raise DataError("the second picture is damaged")

    for _ in range(2):
        with pytest.raises(DataError, match=r"damaged\. 0 images were finished, so nothing is kept"):
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
