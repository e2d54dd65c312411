"""Pictures of samples: grids of images and fields, pairs of features, curves, and data beside
them."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from cld_core import pictures
from cld_core.data.images import to_pixels
from cld_core.data.source import DescribedSource, source
from cld_core.model import Model
from tests.support.recipes import toy_recipe


def test_a_grid_shows_every_image_in_its_place(tmp_path):
    x = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 4, 4)
    pictures.write(tmp_path / "grid.png", pictures.tile(to_pixels(x)), "five")
    with Image.open(tmp_path / "grid.png") as file:
        picture = np.array(file)
        assert file.info["Description"] == "five"
    assert picture.shape == (2 * 6 + 2, 3 * 6 + 2, 3)
    centres = [tuple(picture[4 + 6 * (i // 3), 4 + 6 * (i % 3)]) for i in range(6)]
    assert centres == [(level,) * 3 for level in (0, 64, 128, 191, 255, 0)]
    pictures.write(tmp_path / "grey.png", pictures.tile(to_pixels(x[:, :1])), "one")
    with Image.open(tmp_path / "grey.png") as file:
        assert file.mode == "L"


def modelled(folder, x, **labels):
    """A model without a network of these arrays, of which the last 30 are for tests; and these."""
    np.savez(folder / "x.npz", x=x[:-30], test=x[-30:], **labels)
    recipe = toy_recipe(f"data={{name: arrays, path: {folder / 'x.npz'}, labels: {bool(labels)}}}")
    return Model(recipe, net=nn.Identity(), data=source(recipe.data)), torch.tensor(x[-30:])


def drawn(model, x, label=None):
    figure = Figure()
    pictures.beside_data(figure, x, model, label)
    return figure.axes


def numbers(*shape):
    return np.random.default_rng(0).normal(3.0, 2.0, shape).astype("f4")


def test_vectors_are_pairs_of_features_over_test_data(tmp_path):
    model, data = modelled(tmp_path, numbers(90, 8) * 100)
    axes = drawn(model, x := data + 1)
    grid = dict(
        zip([(row, column) for row in range(6) for column in range(row + 1)], axes, strict=True)
    )
    under, over = (scatter.get_offsets() for scatter in grid[4, 1].collections)
    np.testing.assert_allclose(under, data[:, [1, 4]], rtol=1e-4)
    np.testing.assert_allclose(over, x[:, [1, 4]], rtol=1e-6)
    shares = [bar.get_height() for bar in grid[2, 2].patches]
    assert sum(shares) == pytest.approx(2.0), "of data and of samples"
    assert ": 30 samples, features 0 to 5 of 8, by hand" in pictures.title(x, model, "by hand")
    assert (pictures.default_count(model), pictures.in_rows(model, 9)) == (2000, None)


def test_numbers_are_a_histogram_and_those_that_are_outside_are_counted(tmp_path):
    model, data = modelled(tmp_path, numbers(90, 1))
    x = torch.cat([data[:10], torch.tensor([[1e6], [torch.nan]])])
    (axes,) = drawn(model, x)
    assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(1.0 + 10 / 12)
    assert axes.figure.legends[0].get_texts()[1].get_text() == "samples (2 outside the picture)"


def test_curves_are_beside_those_of_test_data(tmp_path):
    model, data = modelled(tmp_path, numbers(90, 5, 12))
    x = data + 1
    x[0] *= 1e6
    axes = np.array(drawn(model, x)).reshape(4, 2)
    assert axes[3, 1].get_ylim()[1] < 100, "as those of the data"
    for ax, of in zip(axes[3], (data, x), strict=True):
        np.testing.assert_allclose([line.get_ydata() for line in ax.lines], of[:16, 3], rtol=1e-4)
    assert [one.get_title() for one in axes[0]] == ["data, 16 of 30", "samples, 16 of 30"]
    assert "channels 0 to 3 of 5" in pictures.title(x, model, "by hand")
    assert pictures.default_count(model) == 16


@pytest.mark.parametrize("channels", [1, 4])
def test_fields_are_a_grid_in_grey_from_the_least_to_the_largest_number_of_the_data(
    tmp_path, channels
):
    x = numbers(90, channels, 4, 6)
    model, _ = modelled(tmp_path, x)
    shown = torch.tensor(x[:4])
    low = x[:-30].min()
    high = x[:-30].max()
    wanted = pictures.enlarged(
        pictures.tile(to_pixels((shown[:, :1] - low) / (0.5 * (high - low)) - 1))
    )
    assert (pictures.pixels(shown, model).int() - wanted.int()).abs().max() <= 1
    assert ("channel 0 of 4" in pictures.title(shown, model, "by hand")) == (channels == 4)
    assert pictures.default_count(model) == 64


@pytest.mark.parametrize(("shape", "panels"), [((2,), 1), ((3,), 6), ((2, 5), 2)])
def test_data_that_are_missing_are_left_out(tmp_path, shape, panels):
    model, data = modelled(tmp_path, numbers(90, *shape))
    model.source = DescribedSource(model.form, "they are gone")
    axes = drawn(model, data)
    assert len(axes) == panels
    assert all(len(ax.collections) <= 1 and len(ax.lines) <= 16 for ax in axes)


def test_the_class_of_each_row_of_a_grid_is_beside_it(tmp_path):
    names = np.array(["i", "a long name"])
    labels = {"labels": names[np.arange(60) % 2], "test_labels": names[np.arange(30) % 2]}
    model, x = modelled(tmp_path, np.zeros((90, 1, 8, 8), "u1"), **labels)
    plain = pictures.pixels(x[:9], model)
    shown = pictures.pixels(x[:9], model, pictures.in_rows(model, 9))
    strip, grid = shown.split([shown.shape[1] - plain.shape[1], plain.shape[1]], dim=1)
    assert torch.equal(grid, plain)
    ink = [int((row > 128).sum()) for row in strip.tensor_split(3)]
    assert ink[0] == ink[2] > 3 * ink[1] > 0


def test_data_of_a_class_are_beside_its_samples(tmp_path):
    model, x = modelled(
        tmp_path, numbers(90, 3), labels=np.arange(60) % 3, test_labels=np.arange(30) % 3
    )
    under = drawn(model, x[:5], label=1)[1].collections[0].get_offsets()
    np.testing.assert_allclose(under, x[1:15:3, :2], rtol=1e-4)


@pytest.mark.parametrize("shape", [(1,), (2,), (4,), (2, 5), (4, 6, 6)])
def test_every_kind_of_sample_on_given_axes(tmp_path, shape):
    model, data = modelled(tmp_path, numbers(90, *shape))
    axes = Figure().subplots()
    pictures.on_axes(axes, data, model, "mine")
    assert axes.get_title() == "mine"
    assert len(axes.collections) + len(axes.lines) + len(axes.images) + len(axes.patches) > 0
