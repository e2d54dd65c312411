"""Batches of a training run: their order, and reading ahead."""

import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from cld_core.config.data import ImageDataSpec
from cld_core.data.images import ImageSet, ImageSource, order, to_pixels
from cld_core.errors import DataError
from tests.support.images import store_images

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
    numbers: list[int] = []
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
