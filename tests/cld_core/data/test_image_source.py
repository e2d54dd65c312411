"""Images as training and evaluation use them."""

import math

import pytest
import torch

from cld_core.config.data import Cifar10Spec, ImageDataSpec, ToyDataSpec
from cld_core.data.images import ImageSource, dequantise, to_model, to_pixels
from cld_core.data.source import source
from cld_core.data.store import PROGRESS, require
from cld_core.errors import DataError
from tests.support.images import make_images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(params=["memory", "disk"])
def images(data, request) -> ImageSource:
    found = source(ImageDataSpec(path=str(data), size=8, cache=request.param))
    assert isinstance(found, ImageSource)
    yield found
    found.close()


def test_test_images_are_dequantised_each_with_its_own_noise(images):
    points = images.dequantised_test_data(0, 0, 40)
    again = torch.cat([images.dequantised_test_data(0, first, first + 8) for first in range(0, 40, 8)])
    assert torch.equal(points, again)
    levels = ((points + 1.0) * 128.0).floor().to(torch.uint8)
    assert torch.equal(levels, images.test.batch(torch.arange(40)))
    assert points.min() >= -1.0
    assert points.max() < 1.0
    assert not torch.equal(points, images.dequantised_test_data(1, 0, 40))
    with pytest.raises(DataError, match=r"40 validation images.*eval\.points=40"):
        images.dequantised_test_data(0, 30, 41)


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


def test_missing_data_are_noticed_before_anything_is_submitted(data, tmp_path):
    require(ToyDataSpec())
    require(ImageDataSpec(path=str(data), size=8))
    with pytest.raises(DataError, match=r"no prepared data set.*cldctl data prepare cifar10 --source PATH --out"):
        require(Cifar10Spec(path=str(tmp_path / "none")))
    with pytest.raises(DataError, match="holds folder, not cifar10"):
        require(Cifar10Spec(path=str(data)))
    with pytest.raises(DataError, match="8x8, not 16x16"):
        require(ImageDataSpec(path=str(data), size=16))
    (tmp_path / "published" / "train.lmdb").mkdir(parents=True)
    (tmp_path / "published" / "train.lmdb" / "data.mdb").touch()
    with pytest.raises(DataError, match=r"train.lmdb cannot be opened as an LMDB file.*cldctl data prepare cifar10"):
        require(Cifar10Spec(path=str(tmp_path / "published")))
    (tmp_path / "half.partial").mkdir()
    (tmp_path / "half.partial" / PROGRESS).touch()
    with pytest.raises(DataError, match=r"unfinished.*--out \S*half$"):
        require(Cifar10Spec(path=str(tmp_path / "half")))
