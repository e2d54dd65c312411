"""Bits of images, and pictures of many of them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cld_core import pictures
from cld_core.data.images import to_pixels
from cld_core.evaluate import likelihood
from cld_core.evaluate.request import EvalRequest
from cld_core.model import Model
from tests.support.images import make_images, tiny_recipe


def test_a_uniform_density_has_eight_bits(tmp_path):
    model = Model(tiny_recipe(make_images(tmp_path / "set")))
    nats = math.prod(model.data_shape) * math.log(2.0)
    request = EvalRequest.of(model.recipe, ("elbo",), 0)
    rows = SimpleNamespace(
        model=model, request=request, arrays={name: np.full(4, -nats) for name in likelihood._BOUNDS}
    )
    report = likelihood.elbo(rows)
    assert (report["unit"], report["n"], report["stderr"]) == ("bits/dim", 4, 0.0)
    for name in ("bpd", "bpd_paper_estimator", "bpd_importance"):
        assert report[name] == pytest.approx(8.0)
    assert "nll" not in report


def test_a_small_grid_is_enlarged_by_a_whole_factor_and_a_large_one_is_not():
    small = torch.arange(2 * 3, dtype=torch.uint8).reshape(2, 3, 1)
    large = pictures.enlarged(small, width=11)
    assert large.shape == (6, 9, 1)
    assert torch.equal(large[::3, ::3], small)
    assert torch.equal(large[2::3, 2::3], small), "nearest neighbour: squares of one colour"
    assert torch.equal(pictures.enlarged(small, width=5), small)
    assert torch.equal(pictures.enlarged(small, width=2), small)


def test_a_grid_shows_every_image_in_its_place(tmp_path):
    x = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 4, 4)
    pictures.write(tmp_path / "grid.png", pictures.tile(to_pixels(x)), "five")
    with Image.open(tmp_path / "grid.png") as file:
        picture = np.array(file)
        assert file.info["Description"] == "five"
    assert picture.shape == (2 * 6 + 2, 3 * 6 + 2, 3)
    centres = [tuple(picture[4 + 6 * (i // 3), 4 + 6 * (i % 3)]) for i in range(6)]
    assert centres == [(level,) * 3 for level in (0, 64, 128, 191, 255, 0)]
    pictures.write(tmp_path / "grey.png", pictures.tile(to_pixels(x[:, :1])))
    with Image.open(tmp_path / "grey.png") as file:
        assert file.mode == "L"
