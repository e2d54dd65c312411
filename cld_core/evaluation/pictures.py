"""Pictures of samples: a grid of images, or a scatter over the true density for toy data."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cld_core.data.toy import Toy
from cld_core.model import Model
from cld_core.run.atomic import replacing

from . import grids, nonfinite

# Points on a side at which the density is evaluated for the background.
_GRID = 320


def samples(model: Model, path: Path, *, seed: int = 0, batch_size: int | None = None) -> None:
    """Draw as many samples as a picture shows, ``batch_size`` at once (None: all), and save them as `show` does."""
    drawn = model.draw(default_count(model), seed=seed, batch_size=batch_size)
    show(path, drawn.x, model, f"{drawn.nfe:.0f} NFE")


def default_count(model: Model) -> int:
    """How many samples a picture shows."""
    return 64 if model.is_image else 2000


def show(path: Path, x: Tensor, model: Model, how: str) -> None:
    """Save samples: a grid of images, or a scatter of points over the true density. ``how`` ends the title."""
    bad = int(nonfinite.rows(x).sum())
    some = f" ({bad:,} not finite)" if bad else ""
    title = f"{model.recipe.name}, step {model.step:,}: {len(x):,} samples{some}, {how}"
    if model.is_image:
        grids.save(path, x, title)
    else:
        scatter(path, x.cpu(), model, title)


def scatter(path: Path, x: Tensor, model: Model, title: str) -> None:
    """Points (n, 2) over the density of the model's data set, if that is known."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    density = model.source.density
    points = x.double().numpy()
    truth = model.source.dequantised_test_data(0, 0, 2048).double().numpy()
    low, high = truth.min(0), truth.max(0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 5), sharex=True, sharey=True, layout="constrained")
    ticks = [torch.linspace(low[i], high[i], _GRID, dtype=torch.float64) for i in range(2)]
    shade = None if density is None else _shade(density, *ticks)
    if shade is not None:
        extent = (low[0], high[0], low[1], high[1])
        for axis in axes:
            axis.imshow(shade, origin="lower", extent=extent, cmap="Blues", vmax=1.4, aspect="auto")
    axes[0].scatter(*truth.T, s=2, c="tab:gray", alpha=0.5, linewidths=0)
    axes[0].set_title("data")
    inside = ((points > low) & (points < high)).all(1)
    axes[1].scatter(*points[inside].T, s=2, c="tab:red", alpha=0.6, linewidths=0)
    outside = len(points) - int(inside.sum())
    axes[1].set_title("samples" + (f" ({outside} outside the picture)" if outside else ""))
    axes[0].set_xlim(low[0], high[0])
    axes[0].set_ylim(low[1], high[1])
    figure.suptitle(title)
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format="png")
    pyplot.close(figure)


def _shade(density: Toy, x: Tensor, y: Tensor) -> np.ndarray | None:
    """The square root of the density over its maximum, a row for each y; None if the density is not known."""
    if density.on_grid is not None:
        p = density.on_grid(x, y).T
        return (p / p.max()).sqrt().numpy()
    if density.log_density is None:
        return None
    log_p = density.log_density(torch.cartesian_prod(x, y)).reshape(len(x), len(y)).T
    return torch.exp(0.5 * (log_p - log_p.max())).numpy()
