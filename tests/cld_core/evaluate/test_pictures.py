"""Pictures of samples: the background and the axes of points, and grids of images."""

import numpy as np
import torch
from PIL import Image

from cld_core import pictures
from cld_core.data.images import to_pixels


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
