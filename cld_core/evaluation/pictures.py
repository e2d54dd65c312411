"""Pictures of samples: a grid of images, or a scatter over the true density for toy data."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cld_core.data.images import to_pixels
from cld_core.data.toy import Toy
from cld_core.model import Model

from . import grids, nonfinite

# Points on a side at which the density is evaluated for the background.
_GRID = 480
_DPI = 140
# The area of a dot, in square points of 1/72 inch: narrow lines stay lines, and a few hundred dots can still be seen.
_DOT = 1.6
# The limits of the axes come from so many data points at least; more than the second number are never drawn.
_TRUTH, _MOST_TRUTH = 2048, 20_000


def samples(model: Model, path: Path, *, seed: int = 0, batch_size: int | None = None) -> None:
    """Draw as many samples as a picture shows, ``batch_size`` at once (None: all), and save them as `show` does."""
    drawn = model.draw(default_count(model), seed=seed, batch_size=batch_size)
    show(path, drawn.x, model, f"{drawn.nfe:.0f} NFE")


def default_count(model: Model) -> int:
    """How many samples a picture shows."""
    return 64 if model.is_image else 2000


def show(path: Path, x: Tensor, model: Model, how: str) -> None:
    """Save samples: a grid of images, or a scatter of points over the true density. ``how`` ends the title."""
    grids.write(path, pixels(x, model, how), title(x, model, how))


def title(x: Tensor, model: Model, how: str) -> str:
    """What a picture shows, in a line."""
    bad = int(nonfinite.rows(x).sum())
    some = f" ({bad:,} not finite)" if bad else ""
    return f"{model.recipe.name}, step {model.step:,}: {len(x):,} samples{some}, {how}"


def pixels(x: Tensor, model: Model, how: str) -> Tensor:
    """The picture that `show` saves: uint8, (H, W, C)."""
    return grids.tile(to_pixels(x)) if model.is_image else scatter(x.cpu(), model, title(x, model, how))


def scatter(x: Tensor, model: Model, title: str) -> Tensor:
    """Points (n, 2) beside as many of the data, over their density if that is known: uint8, (H, W, 3).

    Both axes have the same unit, so that a ring is a ring.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    density = model.source.density
    points = x.double().numpy()
    truth = model.source.dequantised_test_data(0, 0, max(_TRUTH, min(len(points), _MOST_TRUTH))).double().numpy()
    low, high = _square(truth)
    figure = Figure(figsize=(10, 5.3), dpi=_DPI, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves its methods untyped.
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    ticks = [torch.linspace(low[i], high[i], _GRID, dtype=torch.float64) for i in range(2)]
    shade = None if density is None else _shade(density, *ticks)
    for axes in (left, right):
        if shade is not None:
            extent = (low[0], high[0], low[1], high[1])
            axes.imshow(shade, origin="lower", extent=extent, cmap="Blues", vmax=1.4)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    inside = ((points > low) & (points < high)).all(1)
    outside = len(points) - int(inside.sum())
    shown = truth[: max(len(points), 1)]
    for axes, dots, colour in ((left, shown, "tab:gray"), (right, points[inside], "tab:red")):
        axes.scatter(*dots.T, s=_DOT, c=colour, alpha=0.6, linewidths=0)
    left.set_title("data")
    right.set_title("samples" + (f" ({outside} outside the picture)" if outside else ""))
    figure.suptitle(title)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3])


def _square(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Opposite corners (2,) of a square around points (n, 2), with a margin."""
    low, high = points.min(0), points.max(0)
    half = 0.55 * (high - low).max()
    return (low + high) / 2 - half, (low + high) / 2 + half


def _shade(density: Toy, x: Tensor, y: Tensor) -> np.ndarray | None:
    """The square root of the density over its maximum, a row for each y; None if the density is not known."""
    if density.on_grid is not None:
        p = density.on_grid(x, y).T
        return (p / p.max()).sqrt().numpy()
    if density.log_density is None:
        return None
    log_p = density.log_density(torch.cartesian_prod(x, y)).reshape(len(x), len(y)).T
    return torch.exp(0.5 * (log_p - log_p.max())).numpy()
