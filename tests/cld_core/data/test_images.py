import json
import os
import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from cld_core.config.data import ImageDataSpec
from cld_core.config.keys import key
from cld_core.data import images as images_module
from cld_core.data import store
from cld_core.data.prepare import Plan, SourcePart, names, prepare, verify
from cld_core.data.source import source
from cld_core.data.store import ABOUT, IMAGES, read_about
from cld_core.errors import DataError
from cld_core.plugins import register
from tests.support.images import opened, store_images
from tests.support.recipes import shipped_recipe

from .formats import write_lmdb

pytestmark = pytest.mark.timeout(60)

SIZE = 8


def pixels(count, seed=0):
    """uint8 of shape (count, 3, SIZE, SIZE)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)


TRAIN = pixels(41)
VALIDATION = pixels(9, seed=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A prepared data set; tests that damage it take a copy."""
    root = tmp_path_factory.mktemp("data") / "set"
    return store_images(root, {"train": TRAIN, "validation": VALIDATION}, name="cifar10")


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copied")


def write_published(root, images, split="train"):
    values = [image.transpose(1, 2, 0) if image.ndim == 3 else image for image in images]
    write_lmdb(root / f"{split}.lmdb", values)
    return root


def expected(images, indices, flips=None):
    chosen = torch.from_numpy(images)[indices]
    if flips is not None:
        chosen[flips] = chosen[flips].flip(-1)
    return chosen


@pytest.mark.parametrize(
    ("cache", "in_memory"), [("memory", True), ("disk", False), ("auto", True)]
)
def test_batches(made, cache, in_memory):
    images = opened(made, "train", name="cifar10", cache=cache)
    assert images.in_memory == in_memory
    assert (images.n, images.shape, images.device) == (41, (3, SIZE, SIZE), torch.device("cpu"))
    indices = torch.tensor([40, 0, 7, 7, 10])
    flips = torch.tensor([True, False, True, False, True])
    assert torch.equal(images.batch(indices), expected(TRAIN, indices))
    assert torch.equal(images.batch(indices, flips), expected(TRAIN, indices, flips))
    assert images.batch(indices).is_contiguous()
    # A batch is the caller's own.
    images.batch(indices).zero_()
    assert torch.equal(images.batch(indices), expected(TRAIN, indices))


def test_a_set_too_large_for_memory_stays_on_disk(made, monkeypatch):
    monkeypatch.setattr("cld_core.data.images.MEMORY_BYTES", 41 * 3 * SIZE * SIZE - 1)
    assert not opened(made, "train").in_memory
    assert opened(made, "validation").in_memory


def test_a_gpu_gets_what_is_small_beside_its_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert images_module._fits(100, torch.device("cuda", 1))
    assert not images_module._fits(101, torch.device("cuda"))
    assert images_module._fits(10**12, torch.device("cpu"))


def test_published_form(tmp_path):
    root = write_published(tmp_path / "celeba-lmdb", TRAIN)
    write_published(root, VALIDATION, "validation")
    for cache in ("memory", "disk"):
        images = opened(root, "train", name="celebahq256", cache=cache)
        assert images.in_memory == (cache == "memory")
        flips = torch.arange(41) % 2 == 0
        assert torch.equal(images.batch(torch.arange(41), flips), expected(TRAIN, range(41), flips))
    assert opened(root, "validation").n == 9
    with pytest.raises(DataError, match=r"8x8, not 256x256.*cldctl data prepare celebahq256"):
        opened(root, "train", name="celebahq256", size=256)


def test_published_form_of_something_else(tmp_path):
    with pytest.raises(DataError, match="not square raw RGB images"):
        opened(write_published(tmp_path / "jpeg", [np.zeros(1001, np.uint8)]), "train")
    with pytest.raises(DataError, match=r"Image 1 of .* has 27 bytes, not 192"):
        opened(write_published(tmp_path / "mixed", [TRAIN[0], np.zeros(27, np.uint8)]), "train")


def test_a_published_file_that_was_copied_in_part(tmp_path):
    """Reading one ends the process with a bus error."""
    root = write_published(tmp_path / "celeba-lmdb", pixels(2000))
    for share in (0.9, 0.3, 0.001, 0.0):
        data = root / "train.lmdb" / "data.mdb"
        whole = data.read_bytes()
        data.unlink()
        data.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match=r"(cut short|cannot be opened).*again\."):
            opened(root, "train")


def test_a_split_that_is_not_there(made):
    with pytest.raises(DataError, match=r"no test images.*data prepare"):
        opened(made, "test")


def test_a_copy_that_is_not_whole(copied):
    whole = (copied / IMAGES).read_bytes()
    for length in (len(whole) - 4096, 0):
        (copied / IMAGES).write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"copied incompletely.*again: cldctl data prepare"):
            opened(copied, "train")
    (copied / IMAGES).write_bytes(bytes(len(whole)))
    with pytest.raises(DataError, match=r"images\.npy cannot be read.*cldctl data prepare"):
        opened(copied, "train")
    (copied / ABOUT).write_text(json.dumps({"format": "cld-images/1"}))
    with pytest.raises(DataError, match=r"format is 'cld-images/1'.*Prepare the data again"):
        opened(copied, "train")


def test_changed_pixels_are_found_when_loading_and_when_verifying(copied):
    assert verify(copied) == read_about(copied)
    with open(copied / IMAGES, "r+b") as file:
        file.seek(-VALIDATION.nbytes - 1000, os.SEEK_END)
        file.write(bytes(10))
    with pytest.raises(DataError, match="they were changed"):
        opened(copied, "train", cache="memory")
    assert opened(copied, "train", cache="disk").n == 41
    seen = []
    with pytest.raises(DataError, match=r"train images .* not those that were prepared"):
        verify(copied, lambda done, total: seen.append((done, total)))
    assert seen == [(41, 50)]


@dataclass(frozen=True, kw_only=True)
class GreysSpec(ImageDataSpec):
    own_pixels: ClassVar[int | None] = SIZE
    preparation: ClassVar[str] = f"{__name__}:plan_greys"

    name: str = key("greys", "images of one grey level each")


def plan_greys(source):
    def part(split, levels):
        images = np.concatenate([np.full((1, 3, SIZE, SIZE), level, np.uint8) for level in levels])
        return SourcePart(split=split, name=split, fingerprint="1", read=lambda: images)

    parts = [part("train", range(0, 240, 10)), part("validation", range(5, 245, 30))]
    return Plan(name="greys", size=SIZE, source=source.name, parts=parts)


@pytest.fixture
def greys(tmp_path):
    register("data", "greys", "cld_core.data.images:StoredSource", GreysSpec)
    return tmp_path / "greys"


def small(path):
    overrides = [
        "data.name=greys",
        f"data.path={path}",
        "network.image_size=8",
        "network.attention=[4]",
    ]
    return shipped_recipe("cifar10_smoke", *overrides, "data.size=null")


@pytest.mark.parametrize("channels", [1, 3])
def test_size_and_channels_are_those_of_the_prepared_images(tmp_path, channels):
    images = {"train": TRAIN[:, :channels], "validation": VALIDATION[:, :channels]}
    spec = ImageDataSpec(path=str(store_images(tmp_path / "set", images)))
    assert spec.shape is None
    assert store.require(spec) == source(spec).shape == (channels, SIZE, SIZE)
    assert source(spec).test_data(0, 0, 2).shape == (2, channels, SIZE, SIZE)
    with pytest.raises(
        DataError, match=rf"shape \({channels}, .* is {4 - channels}.*data.channels=null"
    ):
        store.require(replace(spec, channels=4 - channels))


def test_a_set_of_an_earlier_version_is_one_of_coloured_images(copied):
    about = json.loads((copied / ABOUT).read_text())
    del about["channels"]
    (copied / ABOUT).write_text(json.dumps(about))
    assert read_about(copied).channels == 3
    shutil.rmtree(copied)
    assert source(ImageDataSpec(path=str(copied), size=SIZE)).shape == (3, SIZE, SIZE), (
        "to sample without the data"
    )


def test_a_set_of_images_is_added_in_one_file(greys):
    with pytest.raises(DataError, match="cldctl data prepare greys --source PATH"):
        store.require(small(greys).data)
    assert "greys" in names()
    about = prepare("greys", "nothing", greys)
    assert (about.name, about.splits["train"].count) == ("greys", 24)
    recipe = small(greys)
    store.require(recipe.data)
    assert recipe.data == GreysSpec(path=str(greys))
    with closing(source(recipe.data)) as images:
        assert float(images.batch(0, 0, 0, 6, slice(0, 6)).std((1, 2, 3)).max()) == 0.0
