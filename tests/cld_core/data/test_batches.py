"""Batches of a training run: their order, and reading ahead."""

import itertools
import random
import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from cld_core.data.image_source import ImageStream, indices, mirrored
from cld_core.data.images import ImageSet, MappedImages, MemoryImages, open_images
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


@pytest.fixture(scope="module", params=["memory", "disk"])
def images(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("stream") / "set"
    store_images(root, {"train": numbered()})
    opened = open_images(root, "train", cache=request.param)
    assert isinstance(opened, MemoryImages if request.param == "memory" else MappedImages)
    return opened


def shared(world):
    """The rows of each rank."""
    return [slice(BATCH * rank // world, BATCH * (rank + 1) // world) for rank in range(world)]


def stream(images, **options):
    return ImageStream(images, **{"seed": SEED, "batch_size": BATCH, "rows": slice(0, BATCH), **options})


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_batches_of_one(images, world):
    with closing(stream(images)) as alone:
        whole = list(itertools.islice(alone, 9))
    shares = []
    for rows in shared(world):
        with closing(stream(images, rows=rows)) as share:
            shares.append(list(itertools.islice(share, 9)))
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step] for share in shares]), batch)
        numbers, flips = seen(batch)
        assert numbers == indices(step, BATCH, N, SEED).tolist()
        assert flips == mirrored(step, BATCH, N, SEED).tolist()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_resumed_epoch_shows_every_image_once(images, world):
    numbers: list[int] = []
    for first, last in ((0, 2), (2, 3), (3, 8), (8, 12)):  # killed after steps 2, 3 and 8; read ahead each time
        streams = [stream(images, rows=rows, start_step=first) for rows in shared(world)]
        for _ in range(first, last):
            for share in streams:
                numbers += seen(next(share))[0]
        for share in streams:
            assert share.step == last
            share.close()
    for epoch in range(3):
        assert sorted(numbers[epoch * N : (epoch + 1) * N]) == list(range(N))


def test_without_flips(images):
    with closing(stream(images, flip=False)) as batches:
        assert not any(seen(next(batches))[1])


def test_the_same_on_any_number_of_threads(images):
    with closing(stream(images)) as few, closing(stream(images, threads=5)) as many:
        for _ in range(20):
            assert torch.equal(next(few), next(many))
    assert few.wait_s >= 0


class Failing(ImageSet):
    in_memory = False
    n, shape, device = N, (3, SIZE, SIZE), torch.device("cpu")

    def batch(self, numbers, flips=None):
        raise DataError("the disk is gone")


def test_an_error_reaches_the_caller():
    before = threading.active_count()
    with closing(stream(Failing())) as batches, pytest.raises(DataError, match="the disk is gone"):
        next(batches)
    assert threading.active_count() == before


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_index_once_an_epoch_however_often_training_is_resumed(world, seed):
    chance = random.Random(100 * world + seed)
    n, batch_size = chance.randint(5, 60), chance.randint(3, 40)
    steps = 4 * n // batch_size + 3
    seen: list[int] = []
    step = 0
    while step < steps:
        killed_at = min(steps, step + chance.randint(1, 5))
        ranks = chance.choice([1, 2, 3]) if seed % 2 else world  # also on another number of ranks
        for now in range(step, killed_at):
            for rank in range(ranks):
                seen += indices(now, batch_size, n, seed)[
                    batch_size * rank // ranks : batch_size * (rank + 1) // ranks
                ].tolist()
        step = killed_at
    epochs = len(seen) // n
    assert epochs >= 3
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert len({tuple(seen[epoch * n : (epoch + 1) * n]) for epoch in range(epochs)}) == epochs


def test_a_step_knows_its_images_without_the_steps_before():
    late = indices(1_000_003, 64, 50_000, seed=7)
    assert torch.equal(late, indices(1_000_003, 64, 50_000, seed=7))
    assert not torch.equal(late, indices(1_000_003, 64, 50_000, seed=8))
    assert (late.dtype, late.shape) == (torch.int64, (64,))


def test_a_batch_larger_than_the_set():
    got = indices(0, 25, 10, seed=0)
    assert torch.equal(got[:10].sort().values, torch.arange(10))
    assert torch.equal(got[10:20].sort().values, torch.arange(10))
    assert len(set(got[20:].tolist())) == 5


def test_what_is_given_out_is_the_callers_own():
    first = indices(0, 10, 10, seed=0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(indices(0, 10, 10, seed=0), kept)


def test_half_are_mirrored_others_in_each_epoch():
    n = 4000
    first, second = (mirrored(epoch, n, n, seed=0) for epoch in (0, 1))
    assert first.dtype == torch.bool
    assert abs(first.float().mean() - 0.5) < 0.03
    assert 0.4 < (first == second).float().mean() < 0.6
