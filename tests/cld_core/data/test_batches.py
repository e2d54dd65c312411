"""Batches of a training run: their order, and reading ahead."""

import itertools
import math
import threading
from contextlib import closing
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from cld_core.config.data import Cifar10Spec, ImageDataSpec, ToyDataSpec
from cld_core.data.images import ImageSet, StoredSource, dequantise, order, to_model, to_pixels
from cld_core.data.source import source
from cld_core.data.store import PROGRESS, require
from cld_core.errors import DataError
from tests.support.images import store_images

N = 37
SIZE = 4
BATCH = 12
SEED = 5


def numbered():
    """uint8 of shape (N, 3, SIZE, SIZE): an image shows its index, except in its left column, which
    is 255."""
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
    return lambda **keys: closing(
        StoredSource(ImageDataSpec(path=str(root), size=SIZE, cache=request.param, **keys))
    )


def batches(of, first, last, rows=slice(0, BATCH)):
    return [to_pixels(of.batch(SEED, 0, step, BATCH, rows)) for step in range(first, last)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_batches_of_one(images, world):
    with images() as of:
        whole = batches(of, 0, 9)
    shares = []
    for rank in range(world):
        rows = slice(BATCH * rank // world, BATCH * (rank + 1) // world)
        with images() as of:
            shares.append(batches(of, 0, 9, rows))
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step] for share in shares]), batch)
        numbers, flips = seen(batch)
        assert [numbers, flips] == [part.tolist() for part in order(step, BATCH, N, SEED)]


def test_a_resumed_epoch_shows_every_image_once(images):
    numbers = []
    # Killed after steps 2, 3 and 8, each time with batches that were read ahead.
    for first, last in itertools.pairwise((0, 2, 3, 8, 12)):
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
        torch.testing.assert_close(batches(few, 0, 20), batches(many, 0, 20), rtol=0, atol=0)
        assert few.wait_s >= 0


def test_an_error_reaches_the_caller(root, monkeypatch):
    monkeypatch.setattr(ImageSet, "batch", Mock(side_effect=DataError("the disk is gone")))
    before = threading.active_count()
    with (
        closing(StoredSource(ImageDataSpec(path=str(root), size=SIZE, cache="disk"))) as of,
        pytest.raises(DataError, match="the disk is gone"),
    ):
        batches(of, 0, 1)
    assert threading.active_count() == before


def test_a_batch_larger_than_the_set():
    got, _ = order(0, 25, 10, seed=0)
    first, second, third = map(set, (got[:10].tolist(), got[10:20].tolist(), got[20:].tolist()))
    assert first == second == set(range(10))
    assert len(third) == 5


def test_half_are_mirrored_others_in_each_epoch():
    n = 4000
    first, second = (order(epoch, n, n, seed=0)[1] for epoch in (0, 1))
    assert first.dtype == torch.bool
    assert abs(first.float().mean() - 0.5) < 0.03
    assert 0.4 < (first == second).float().mean() < 0.6


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_test_images_are_dequantised_each_with_its_own_noise(data, cache):
    with closing(source(ImageDataSpec(path=str(data), size=8, cache=cache))) as smooth:
        points = smooth.dequantised_test_data(0, 0, 40)
        again = torch.cat(
            [smooth.dequantised_test_data(0, first, first + 8) for first in range(0, 40, 8)]
        )
        assert torch.equal(points, again)
        levels = ((points + 1.0) * 128.0).floor().to(torch.uint8)
        assert torch.equal(levels, smooth.test.batch(torch.arange(40)))
        assert points.min() >= -1.0
        assert points.max() < 1.0
        assert not torch.equal(points, smooth.dequantised_test_data(1, 0, 40))
        with pytest.raises(DataError, match=r"40 test examples.*eval\.points=40"):
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
    assert to_pixels(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
    x = torch.rand(1000) * 2 - 1
    gap = to_pixels(x).float() - to_pixels(x, floor=True).float()
    assert 0.4 < float(gap.mean()) < 0.6, "half a grey level"
    middle = dequantise(levels, torch.full((256,), 0.5))
    assert torch.equal(to_pixels(middle), levels)


@pytest.mark.parametrize("floor", [False, True])
def test_numbers_that_are_not_finite_become_defined_grey_levels(floor):
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0]).repeat(100)
    expected = [0, 255, 0, 127 if floor else 128] * 100
    assert to_pixels(x, floor=floor).tolist() == expected
    assert to_pixels(x.to(torch.bfloat16), floor=floor).tolist() == expected


def test_missing_data_are_noticed_before_anything_is_submitted(data, tmp_path):
    require(ToyDataSpec())
    require(ImageDataSpec(path=str(data), size=8))
    with pytest.raises(
        DataError, match=r"no prepared data set.*cldctl data prepare cifar10 --source PATH --out"
    ):
        require(Cifar10Spec(path=str(tmp_path / "none")))
    with pytest.raises(DataError, match="holds folder, not cifar10"):
        require(Cifar10Spec(path=str(data)))
    with pytest.raises(DataError, match="8x8, not 16x16"):
        require(ImageDataSpec(path=str(data), size=16))
    (tmp_path / "half.partial").mkdir()
    (tmp_path / "half.partial" / PROGRESS).touch()
    with pytest.raises(DataError, match=r"unfinished.*--out \S*half$"):
        require(Cifar10Spec(path=str(tmp_path / "half")))
