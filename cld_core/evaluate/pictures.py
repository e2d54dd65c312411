"""Pictures of samples: a grid of images, or a scatter over the true density for toy data."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cld_core.config.ema import EmaSpec
from cld_core.data.images import to_pixels
from cld_core.model import Model
from cld_core.samplers import Samples
from cld_core.sanitize import one_line

from . import grids, nonfinite
from .planes import Plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of a figure with data and samples, in inches.
SIDE_BY_SIDE = (10.0, 5.4)
_DPI = 140
# Of a grid of images.
_MOST_ROWS = 16


def samples(model: Model, path: Path, *, seed: int = 0, batch_size: int | None = None) -> None:
    """Draw as many samples as a picture shows, ``batch_size`` at once (None: all), and save them as `show` does."""
    count = default_count(model)
    drawn = model.draw(count, seed=seed, batch_size=batch_size, label=in_rows(model, count))
    show(path, drawn.x, model, how(model, drawn))


def default_count(model: Model) -> int:
    """How many samples a picture shows: of images with classes, a row of each class, as far as there is room."""
    if not model.is_image:
        return 2000
    return min(max(8, len(model.classes or ())), _MOST_ROWS) ** 2


def in_rows(model: Model, n: int) -> Tensor | None:
    """Labels with which each row of a picture of n images has one class; None for points, and without classes."""
    if model.classes is None or not model.is_image:
        return None
    return torch.arange(n) // grids.columns_of(n) % len(model.classes)


def how(model: Model, drawn: Samples, label: str | None = None) -> str:
    """In words, how samples were drawn; ``label``: the class of all of them."""
    spec = model.recipe.sampling
    given = [] if label is None else [f"label {one_line(label, 40)}"]
    guided = [] if spec.guidance == 1 else [f"guidance {spec.guidance:g}"]
    return ", ".join([spec.method, *given, *guided, f"{drawn.nfe:.0f} NFE"])


def periodic_name(step: int) -> str:
    """The name of the picture of a step that the training draws."""
    return f"step_{step:08d}.png"


def name_of(model: Model, n: int, seed: int = 0, label: str | None = None) -> str:
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
    if label is not None and model.classes is not None:
        keyed.append(f"label{model.classes.index(label)}")
    average = [] if model.ema_length is None else [f"ema-{model.ema_length:g}"]
    return "_".join([f"step_{model.step:08d}", spec.method, *always, f"n{n}", *keyed, *others, *average]) + ".png"


def show(path: Path, x: Tensor, model: Model, how: str) -> None:
    """Save samples: a grid of images, or a scatter of points over the true density. ``how`` ends the title."""
    grids.write(path, pixels(x, model, how), title(x, model, how))


def title(x: Tensor, model: Model, how: str) -> str:
    """What a picture shows, in a line that begins with the run or file of the model; of any other, with its recipe."""
    bad = int(nonfinite.rows(x).sum())
    some = f" ({bad:,} not finite)" if bad else ""
    average = EmaSpec(length=model.ema_length).words
    weights = f"step {model.step:,}" + (f", {average}" if average else "")
    name = model.recipe.name if model.path is None else model.path.name.removesuffix(".safetensors")
    return f"{one_line(name, 60)}, {weights}: {len(x):,} samples{some}, {how}"


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
