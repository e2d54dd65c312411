"""Pictures of samples: the background and the axes of points, and grids of images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cld_core import pictures
from cld_core.analytic import GaussianMixture
from cld_core.config import load
from cld_core.data import toy
from cld_core.data.images import to_pixels
from cld_core.model import Model
from tests.support.paths import TOY

# Right of the middle and below it.
LAW = GaussianMixture(torch.tensor([[2.0, -1.0]]), 0.3)
KNOWN = replace(toy.get("gaussian"), log_density=LAW.log_density, on_grid=LAW.density_on_grid)


def test_what_is_not_known_is_not_drawn():
    assert pictures._shade(replace(KNOWN, on_grid=None, log_density=None), (0, 0), (1, 1), None) is None


@pytest.fixture(scope="module")
def model():
    """A toy whose data are twice as wide as they are high, so that axes that fill their box would stretch it."""
    made = Model(load(TOY, ["network.width=8", "network.layers=2"]), torch.device("cpu"), step=7)
    wide = torch.tensor([2.0, 1.0])
    source = made.source
    draw = source.dequantised_test_data
    source.dequantised_test_data = lambda seed, first, last: draw(seed, first, last) * wide
    return made


def red(pixels):
    """Rows and columns (k,) of the pixels of samples."""
    r, g, b = (pixels[..., channel].int() for channel in range(3))
    return torch.nonzero((r > g + 60) & (r > b + 60), as_tuple=True)


def test_samples_are_shown_beside_the_data_and_those_outside_are_counted(model, tmp_path):
    x = torch.tensor([[0.0, 0.0], [50.0, 0.0], [float("nan"), 0.0]])
    pictures.show(tmp_path / "x.png", x, model, "exact")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.text["Description"] == "toy, step 7: 3 samples (1 not finite), exact"
        pixels = torch.from_numpy(np.array(picture))
    assert torch.equal(pixels, pictures.pixels(x, model, "exact"))
    _, columns = red(pixels)
    assert columns.min() > pixels.shape[1] / 2, "samples are on the right"


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
