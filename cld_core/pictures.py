"""Pictures of samples: grids of images, and points of toy data over the true density, beside the data."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from .config.schema import MAX_PICTURE
from .config.train import EmaSpec
from .data.images import to_pixels
from .data.source import Source, form_of, test_count
from .data.toy import Toy
from .errors import UsageError
from .files import replacing
from .samplers import Samples
from .sanitize import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .conditioning import Observation
    from .model import Model

# Of pictures in a grid, in pixels.
_GAP = 2
# Pixels: viewers show a small picture as it is, and 16 images of 32 x 32 would be a stamp.
_WIDTH = 512
# Points on a side at which the density is evaluated for the background.
_GRID = 480
# The area of a dot, in square points of 1/72 inch: narrow lines stay lines, and a few hundred dots can still be seen.
_DOT = 1.6
# The limits of the axes come from so many test points at least; more than the second number are never drawn.
_EXAMPLES, _MOST_EXAMPLES = 2048, 20_000

Array = npt.NDArray[Any]
# Of a figure with data and samples, in inches.
SIDE_BY_SIDE = (10.0, 5.4)
_DPI = 140
# Of a grid of images.
_MOST_ROWS = 16


# --- pictures of a model's samples


def samples(model: "Model", path: Path, *, seed: int = 0, batch_size: int | None = None) -> None:
    """Draw as many samples as a picture shows, ``batch_size`` at once (None: all), and save them as `show` does."""
    count = default_count(model)
    drawn = model.draw(count, seed=seed, batch_size=batch_size, label=in_rows(model, count))
    show(path, drawn.x, model, how(model, drawn))


def default_count(model: "Model") -> int:
    """How many samples a picture shows: of images with classes, a row of each class, as far as there is room."""
    if not model.is_image:
        return 2000
    return min(max(8, len(model.classes or ())), _MOST_ROWS) ** 2


def in_rows(model: "Model", n: int) -> Tensor | None:
    """Labels with which each row of a picture of n images has one class; None for points, and without classes."""
    if model.classes is None or not model.is_image:
        return None
    return torch.arange(n) // columns_of(n) % len(model.classes)


def how(model: "Model", drawn: Samples, label: str | None = None) -> str:
    """In words, how samples were drawn; ``label``: the class of all of them."""
    spec = model.recipe.sampling
    given = [] if label is None else [f"label {one_line(label, 40)}"]
    guided = [] if spec.guidance == 1 else [f"guidance {spec.guidance:g}"]
    return ", ".join([spec.method, *given, *guided, f"{drawn.nfe:.0f} NFE"])


def periodic_name(step: int) -> str:
    """The name of the picture of a step that the training draws."""
    return f"step_{step:08d}.png"


def name_of(model: "Model", n: int, seed: int = 0, label: str | None = None) -> str:
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


def show(path: Path, x: Tensor, model: "Model", how: str) -> None:
    """Save samples: a grid of images, or a scatter of points over the true density. ``how`` ends the title."""
    write(path, pixels(x, model, how), title(x, model, how))


def show_given(
    path: Path,
    x: Tensor,
    model: "Model",
    observation: "Observation",
    line: tuple[Tensor, Tensor] | None,
    how: str,
    label: int | None = None,
) -> None:
    """Save samples given an observation; ``label``: the class of all of them.

    Images: a grid whose first image is what was observed, grey where nothing is known. Toy data: the samples over the
    density, beside the data or, with one coordinate known exactly, the distribution of the other one against the exact
    ``line`` (`cld_core.evaluate.toy.ConditionalDensity`).
    """
    text, mask = title(x, model, how), observation.mask

    def draw(figure: "Figure") -> None:
        if line is None or mask is None:
            beside_data(figure, x.cpu(), model, text, label)
            return
        right, left = figure.subplots(1, 2)
        _against_line(left, x.cpu()[:, ~mask][:, 0], *line)
        Plane.of(model.source, len(x), label).draw_samples(right, x.cpu())
        figure.suptitle(text)

    if model.is_image:
        observed = to_pixels(observation.backprojected()[None])
        made = enlarged(tile(torch.cat([observed, to_pixels(x).cpu()])))
    else:
        made = rendered(draw)
    write(path, made, text)


def title(x: Tensor, model: "Model", how: str) -> str:
    """What a picture shows, in a line that begins with the run or file of the model; of any other, with its recipe."""
    bad = int((~x.isfinite().flatten(1).all(1)).sum())
    some = f" ({bad:,} not finite)" if bad else ""
    average = EmaSpec(length=model.ema_length).words
    weights = f"step {model.step:,}" + (f", {average}" if average else "")
    name = model.recipe.name if model.path is None else model.path.name.removesuffix(".safetensors")
    return f"{one_line(name, 60)}, {weights}: {len(x):,} samples{some}, {how}"


def pixels(x: Tensor, model: "Model", how: str) -> Tensor:
    """The picture that `show` saves: uint8, (H, W, C)."""
    if model.is_image:
        return enlarged(tile(to_pixels(x)))
    return rendered(lambda figure: beside_data(figure, x.cpu(), model, title(x, model, how)))


def rendered(draw: "Callable[[Figure], object]") -> Tensor:
    """What ``draw`` draws into a figure with room for two squares: uint8, (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIDE_BY_SIDE, dpi=_DPI, layout="constrained")
    draw(figure)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves its methods untyped.
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3])


def beside_data(figure: "Figure", x: Tensor, model: "Model", title: str, label: int | None = None) -> None:
    """Draw test data, of a class if there is a ``label``, and samples x (n, 2) side by side, on equal axes."""
    plane = Plane.of(model.source, len(x), label)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    plane.draw(left, plane.examples, "tab:gray")
    left.set_title("data" if label is None else f"data of label {label}")
    plane.draw_samples(right, x)
    figure.suptitle(title)


def on_axes(axes: "Axes", x: Tensor, model: "Model", title: str) -> None:
    """Draw samples alone: a grid of images (n, C, H, W) in [-1, 1], without ticks, or points over their density."""
    axes.set_title(title)
    if not model.is_image:
        Plane.of(model.source).draw(axes, x, "tab:red")
        return
    axes.imshow(tile(to_pixels(x)).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()


# --- grids of images


def require_size(n: int, pixels: int) -> None:
    """Refuse a grid of n images with so many pixels each that cannot be made in memory.

    Raises:
        UsageError: names how many can be.
    """
    if n * pixels > MAX_PICTURE:
        raise UsageError(f"{n} images are too many for one picture. Draw at most {MAX_PICTURE // pixels}, or an .npz.")


def columns_of(n: int) -> int:
    """The columns of a grid of n images."""
    return math.ceil(math.sqrt(n))


def tile(images: Tensor) -> Tensor:
    """Images (n, C, H, W), uint8, side by side on black: (H', W', C), as nearly square as n allows."""
    n, channels, height, width = images.shape
    require_size(n, height * width)
    columns, gap = columns_of(n), _GAP
    rows = math.ceil(n / columns)
    canvas = torch.zeros(channels, rows * (height + gap) + gap, columns * (width + gap) + gap, dtype=torch.uint8)
    for index, image in enumerate(images.cpu()):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).contiguous()


def enlarged(pixels: Tensor, width: int = _WIDTH) -> Tensor:
    """A picture (H, W, C) with each pixel as a square of several: as many as fit ``width``, or one."""
    factor = max(1, width // pixels.shape[1])
    return pixels.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)


def write(path: Path, pixels: Tensor, title: str = "") -> None:
    """A picture, uint8 (H, W, C) with C of 1 or 3, as PNG; ``title`` goes into its metadata."""
    picture = Image.fromarray(pixels.squeeze(-1).numpy())
    about = PngImagePlugin.PngInfo()
    if title:
        about.add_text("Description", title)
    with replacing(path) as file:
        picture.save(file, format="PNG", pnginfo=about)


# --- points in the plane


@dataclass(frozen=True)
class Plane:
    """The part of the plane that a picture of toy data shows.

    Attributes:
        low: lower left corner, (2,).
        high: upper right corner, (2,).
        examples: (m, 2), test data.
        shade: (_GRID, _GRID), the square root of the density over its maximum; None if the density is not known.
    """

    low: Array
    high: Array
    examples: Array
    shade: Array | None

    @classmethod
    def of(cls, source: Source, n: int = 0, label: int | None = None) -> "Plane":
        """A square around the test data of a source, with a margin, and data to show beside n samples.

        Args:
            label: shows the examples of this class alone, over their density.
        """
        count = min(max(_EXAMPLES, min(n, _MOST_EXAMPLES)), test_count(source) or _MOST_EXAMPLES)
        examples = form_of(source).to_data(source.dequantised_test_data(0, 0, count).double()).numpy()
        low, high = examples.min(0), examples.max(0)
        middle, half = (low + high) / 2, 0.55 * (high - low).max()
        low, high = middle - half, middle + half
        shade = None if source.density is None else _shade(source.density, tuple(low), tuple(high), label)
        if label is not None:
            examples = examples[source.test_labels(0, 0, len(examples)).numpy() == label]
        return cls(low, high, examples[:n] if n else examples, shade)

    def draw(self, axes: "Axes", points: Tensor | Array, colour: str) -> int:
        """Draw points (n, 2) over the density; returns how many are outside of the picture, or not finite."""
        points = np.asarray(points, dtype=np.float64)
        if self.shade is not None:
            extent = (self.low[0], self.high[0], self.low[1], self.high[1])
            axes.imshow(self.shade, origin="lower", extent=extent, cmap="Blues", vmax=1.4, aspect="equal")
        inside = ((points > self.low) & (points < self.high)).all(1)
        axes.scatter(points[inside, 0], points[inside, 1], s=_DOT, c=colour, alpha=0.6, linewidths=0)
        axes.set_xlim(self.low[0], self.high[0])
        axes.set_ylim(self.low[1], self.high[1])
        # A ring is a ring.
        axes.set_aspect("equal")
        return len(points) - int(inside.sum())

    def draw_samples(self, axes: "Axes", x: Tensor) -> None:
        """Draw samples (n, 2) as `draw` does; the title says how many are outside of the picture."""
        outside = self.draw(axes, x, "tab:red")
        axes.set_title("samples" + (f" ({outside} outside the picture)" if outside else ""))


def _against_line(axes: "Axes", values: Tensor, nodes: Tensor, p: Tensor) -> None:
    """A histogram of the unknown coordinate (n,), and its exact density p at nodes."""
    shown = nodes[p > 1e-4 * p.max()]
    low, high = float(shown[0]), float(shown[-1])
    margin = 0.1 * (high - low)
    axes.hist(values.numpy(), bins=120, range=(low - margin, high + margin), density=True, color="tab:red", alpha=0.5)
    axes.plot(nodes.numpy(), p.numpy(), color="black", linewidth=1.0)
    axes.set_xlim(low - margin, high + margin)
    axes.set_title("unknown coordinate: samples, and the exact density")


# The pictures of a run show the same square, and its density may take half a second.
@functools.lru_cache(maxsize=8)
def _shade(density: Toy, low: tuple[float, ...], high: tuple[float, ...], label: int | None) -> Array | None:
    """The square root of the density, or of that of a class, over its maximum, a row for each y; None if unknown."""
    x, y = (torch.linspace(low[i], high[i], _GRID, dtype=torch.float64) for i in range(2))
    if density.on_grid is not None and label is None:
        p = density.on_grid(x, y).T
        return (p / p.max()).sqrt().numpy()
    log_density = density.log_density_of(label)
    if log_density is None:
        return None
    log_p = log_density(torch.cartesian_prod(x, y)).reshape(_GRID, _GRID).T
    return torch.exp(0.5 * (log_p - log_p.max())).numpy()
