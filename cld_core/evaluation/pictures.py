"""Pictures of samples: a grid of images, or a scatter over the true density for toy data."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cld_core.data.images import to_pixels
from cld_core.model import Model

from . import grids, nonfinite
from .planes import Plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of a figure with data and samples, in inches.
SIDE_BY_SIDE = (10.0, 5.4)
_DPI = 140


def samples(model: Model, path: Path, *, seed: int = 0, batch_size: int | None = None) -> None:
    """Draw as many samples as a picture shows, ``batch_size`` at once (None: all), and save them as `show` does."""
    drawn = model.draw(default_count(model), seed=seed, batch_size=batch_size)
    show(path, drawn.x, model, f"{model.recipe.sampling.method}, {drawn.nfe:.0f} NFE")


def default_count(model: Model) -> int:
    """How many samples a picture shows."""
    return 64 if model.is_image else 2000


def periodic_name(step: int) -> str:
    """The name of the picture of a step that the training draws."""
    return f"step_{step:08d}.png"


def name_of(model: Model, n: int, seed: int = 0) -> str:
    """A name of its own for all settings of a picture: those that are always there, then those that are not defaults.

    step_00020000_em_nfe100_n64_seed3_denoise-false.png
    """
    spec = model.recipe.sampling
    nfe = getattr(spec, "nfe", None)
    always = [f"nfe{nfe}"] if nfe is not None else []
    others = [
        f"{entry.name}-{str(getattr(spec, entry.name)).lower()}"
        for entry in fields(spec)
        if entry.name not in ("method", "nfe") and getattr(spec, entry.name) != entry.default
    ]
    keyed = [f"seed{seed}"] if seed else []
    return "_".join([f"step_{model.step:08d}", spec.method, *always, f"n{n}", *keyed, *others]) + ".png"


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
    if model.is_image:
        return grids.enlarged(grids.tile(to_pixels(x)))
    return scatter(x.cpu(), model, title(x, model, how))


def scatter(x: Tensor, model: Model, title: str) -> Tensor:
    """Points (n, 2) beside as many of the data, over their density if that is known: uint8, (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIDE_BY_SIDE, dpi=_DPI, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves its methods untyped.
    beside_data(figure, x, model, title)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3])


def beside_data(figure: "Figure", x: Tensor, model: Model, title: str) -> None:
    """Draw test data and samples x (n, 2) side by side, on equal axes."""
    plane = Plane.of(model.source, len(x))
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    plane.draw(left, plane.examples, "tab:gray")
    left.set_title("data")
    outside = plane.draw(right, x, "tab:red")
    right.set_title("samples" + (f" ({outside} outside the picture)" if outside else ""))
    figure.suptitle(title)


def tiled(axes: "Axes", x: Tensor, title: str) -> None:
    """Draw a grid of images x (n, C, H, W) in [-1, 1], without ticks."""
    pixels = grids.tile(to_pixels(x)).squeeze(-1)
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title)
