import itertools
import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from cld_core.data import order
from cld_core.data.build import Plan, Unit, build
from cld_core.data.images import ImageSet, LmdbImages, MemoryImages, open_images
from cld_core.data.stream import ImageStream
from cld_core.errors import DataError

N, SIZE, BATCH, SEED = 37, 4, 12, 5


def numbered():
    """uint8 of shape (N, SIZE, SIZE, 3): an image shows its index, except in its left column, which is 255."""
    images = np.empty((N, SIZE, SIZE, 3), np.uint8)
    images[:] = np.arange(N)[:, None, None, None]
    images[:, :, 0] = 255
    return images


def seen(batch):
    """The indices and the flips of a batch of numbered images."""
    flips = batch[:, 0, 0, 0] != 255
    return torch.where(flips, batch[:, 0, 0, 0], batch[:, 0, 0, -1]).tolist(), flips.tolist()


@pytest.fixture(scope="module", params=["memory", "disk"])
def images(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("stream") / "set"
    unit = Unit(name="all", fingerprint="1", read=lambda: (image.tobytes() for image in numbered()))
    build(Plan(name="folder", size=SIZE, source="memory", units={"train": [unit]}), root)
    opened = open_images(root, "train", cache=request.param)
    assert isinstance(opened, MemoryImages if request.param == "memory" else LmdbImages)
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
        indices, flips = seen(batch)
        assert indices == order.indices(step, BATCH, N, SEED).tolist()
        assert flips == order.mirrored(step, BATCH, N, SEED).tolist()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_resumed_epoch_shows_every_image_once(images, world):
    indices: list[int] = []
    for first, last in ((0, 2), (2, 3), (3, 8), (8, 12)):  # killed after steps 2, 3 and 8; read ahead each time
        streams = [stream(images, rows=rows, start_step=first) for rows in shared(world)]
        for _ in range(first, last):
            for share in streams:
                indices += seen(next(share))[0]
        for share in streams:
            assert share.step == last
            share.close()
    for epoch in range(3):
        assert sorted(indices[epoch * N : (epoch + 1) * N]) == list(range(N))


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

    def batch(self, indices, flips=None):
        raise DataError("the disk is gone")


def test_an_error_reaches_the_caller():
    before = threading.active_count()
    with closing(stream(Failing())) as batches, pytest.raises(DataError, match="the disk is gone"):
        next(batches)
    assert threading.active_count() == before
