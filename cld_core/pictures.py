"""Pictures of samples, beside the data if they are available.

They are grids of images; points in the plane, over the true density of toy data; histograms and
scatters of features; or curves.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from .config.schema import MAX_PICTURE
from .config.train import EmaSpec
from .data.format import DataFormat
from .data.images import to_grey
from .data.source import Source, form_of, test_count
from .data.toy import Toy
from .errors import DataError, UsageError
from .files import replacing
from .samplers import Samples
from .sanitize import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .conditioning import Observation
    from .model import Model

# Between the images of a grid, in pixels.
_GAP = 2
# The width to which a small grid is enlarged, in pixels: many viewers do not enlarge a picture.
_WIDTH = 512
# The largest height of the names of classes, in pixels.
_LETTERS = 24
# Points on a side at which the density is evaluated for the background.
_GRID = 480
# The area of a dot, in square points of 1/72 inch: narrow lines remain visible, and so do a few
# hundred dots.
_DOT = 1.6
# The fewest test points that the limits of the axes are computed from, and the most that are drawn.
_EXAMPLES = 2048
_MOST_EXAMPLES = 20_000
# The number of test examples that are searched for those of a class, in multiples of the samples.
_SEARCHED = 16

Array = np.ndarray
# The size of a figure with data and samples, in inches.
SIDE_BY_SIDE = (8.0, 4.4)
# The size of a figure with pairs of features, in inches: its numbers are legible at half the width.
_PAIRS = (7.4, 7.4)
_DPI = 140
# The most rows of a grid of images.
_MOST_ROWS = 16
# The most features of vectors, channels of curves, and curves that a picture shows.
_FEATURES = 6
_CHANNELS = 4
_CURVES = 16
_BINS = 40


# --- pictures of a model's samples


def samples(model: "Model", path: Path, *, seed: int = 0, batch_size: int | None = None) -> None:
    """Draw `default_count` samples, ``batch_size`` at once (None: all), and save them by `show`."""
    count = default_count(model)
    labels = in_rows(model, count)
    batch = model.draw(count, seed=seed, batch_size=batch_size, label=labels)
    show(path, batch.x, model, how(model, batch), labels)


def is_grid(form: DataFormat) -> bool:
    """Whether samples are shown as a grid of images, that is, if they are (C, H, W)."""
    return len(form.shape) == 3


def default_count(model: "Model") -> int:
    """The number of samples of a picture; with classes, one row of images for each if possible."""
    if is_grid(model.form):
        return min(max(8, len(model.classes or ())), _MOST_ROWS) ** 2
    return _CURVES if len(model.data_shape) == 2 else 2000


def in_rows(model: "Model", n: int) -> Tensor | None:
    """The labels of n images whose rows have one class each; None without images or classes."""
    if model.classes is None or not is_grid(model.form):
        return None
    return torch.arange(n) // columns_of(n) % len(model.classes)


def how(model: "Model", samples: Samples, label: str | None = None) -> str:
    """A description of how samples were drawn; ``label``: the class of all of them."""
    spec = model.recipe.sampling
    parts = [spec.method]
    if label is not None:
        parts.append(f"label {one_line(label, 40)}")
    if spec.guidance != 1:
        parts.append(f"guidance {spec.guidance:g}")
    return ", ".join([*parts, f"{samples.nfe:.0f} NFE"])


def periodic_name(step: int) -> str:
    """The name of the picture that the training draws at a step."""
    return f"step_{step:08d}.png"


def name_of(model: "Model", n: int, seed: int = 0, label: str | None = None) -> str:
    """A name for a picture that contains all settings that differ from their defaults.

    step_00020000_em_nfe100_n64_seed3_denoise-false.png
    """
    spec = model.recipe.sampling
    parts = [f"step_{model.step:08d}", spec.method]
    if (nfe := getattr(spec, "nfe", None)) is not None:
        parts.append(f"nfe{nfe}")
    parts.append(f"n{n}")
    if seed:
        parts.append(f"seed{seed}")
    if label is not None and model.classes is not None:
        parts.append(f"label{model.classes.index(label)}")
    for entry in fields(spec):
        value = getattr(spec, entry.name)
        if entry.name not in ("method", "nfe") and value != entry.default:
            parts.append(f"{entry.name}-{str(value).lower()}")
    if model.ema_length is not None:
        parts.append(f"ema-{model.ema_length:g}")
    return "_".join(parts) + ".png"


def show(path: Path, x: Tensor, model: "Model", how: str, labels: Tensor | None = None) -> None:
    """Save samples: a grid of images, or a figure as `beside_data` draws it.

    Args:
        how: the end of the title.
        labels: (n,), from `in_rows`; the class of each row is written beside it.
    """
    write(path, pixels(x, model, labels), title(x, model, how))


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

    Images: a grid whose first image is the observation, grey where it is unknown. Toy data: the
    samples over the density, beside the data; or, with one coordinate known exactly, beside the
    distribution of the other one and the exact ``line``
    (`cld_core.evaluate.vectors.ConditionalDensity`).
    """
    mask = observation.mask

    def draw(figure: "Figure") -> None:
        if line is None or mask is None:
            beside_data(figure, x.cpu(), model, label)
            return
        right, left = figure.subplots(1, 2)
        _against_line(left, x.cpu()[:, ~mask][:, 0], *line)
        Plane.of(model.source, len(x), label).draw_samples(right, x.cpu())

    if is_grid(model.form):
        observed = _grey(observation.backprojected()[None], model.form)
        picture = enlarged(tile(torch.cat([observed, _grey(x, model.form).cpu()])))
    else:
        picture = rendered(draw)
    write(path, picture, title(x, model, how))


def title(x: Tensor, model: "Model", how: str) -> str:
    """The title of a picture, which begins with the name of the model's run, file or recipe."""
    bad = int((~x.isfinite().flatten(1).all(1)).sum())
    nonfinite = f" ({bad:,} not finite)" if bad else ""
    average = EmaSpec(length=model.ema_length).words
    weights = f"step {model.step:,}" + (f", {average}" if average else "")
    name = model.recipe.name if model.path is None else model.path.name.removesuffix(".safetensors")
    return (
        f"{one_line(name, 60)}, {weights}: {len(x):,} samples{nonfinite}{_left_out(model.form)}, "
        f"{how}"
    )


def _left_out(form: DataFormat) -> str:
    """A phrase, after a comma, about the shown part of each sample; empty if all of it is shown."""
    parts = form.shape[0]
    if is_grid(form):
        return "" if form.kind == "images" else f", channel 0 of {parts}"
    name, most = ("channels", _CHANNELS) if len(form.shape) == 2 else ("features", _FEATURES)
    return f", {name} 0 to {most - 1} of {parts}" if parts > most else ""


def pixels(x: Tensor, model: "Model", labels: Tensor | None = None) -> Tensor:
    """The picture that `show` saves: uint8, (H, W, C)."""
    if not is_grid(model.form):
        return rendered(lambda figure: beside_data(figure, x.cpu(), model))
    grid = enlarged(tile(_grey(x, model.form)))
    if labels is None or model.classes is None:
        return grid
    of_rows = labels[:: columns_of(len(x))].tolist()
    return _named(grid, [model.classes.names[label] for label in of_rows])


def _grey(x: Tensor, form: DataFormat) -> Tensor:
    """Samples (n, C, H, W) as uint8 images, (n, 1 or 3, H, W)."""
    return to_grey(x if form.kind == "images" else x[:, :1], form)


def rendered(draw: "Callable[[Figure], object]") -> Tensor:
    """The picture that ``draw`` makes of a figure with room for two squares: uint8, (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIDE_BY_SIDE, dpi=_DPI, layout="constrained")
    draw(figure)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves its methods untyped.
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3])


def beside_data(figure: "Figure", x: Tensor, model: "Model", label: int | None = None) -> None:
    """Draw samples x (n, ...) and, for comparison, test data, only of the class ``label`` if given.

    Points in the plane and curves are side by side, on equal axes. Other vectors are shown as
    histograms of features and scatters of pairs of features. Missing data are left out.
    """
    if model.data_shape == (2,):
        plane = Plane.of_model(model, x, label)
        columns = 2 if len(plane.examples) else 1
        grid = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)
        *others, right = grid[0]
        for left in others:
            plane.draw(left, plane.examples, "tab:gray")
            left.set_title(_data_of(label))
        plane.draw_samples(right, x)
        return
    vectors = {"samples": x.double()}
    if (examples := _examples(model, len(x), label)) is not None:
        vectors = {_data_of(label): examples.double(), **vectors}
    (_curves if len(model.data_shape) == 2 else _pairs)(figure, vectors)


def _data_of(label: int | None) -> str:
    return "data" if label is None else f"data of label {label}"


def _examples(model: "Model", n: int, label: int | None) -> Tensor | None:
    """Test data (m, ...), of the class ``label`` if it is given, to show beside n samples.

    None if they are missing.
    """
    source = model.source
    most = n if label is None else _SEARCHED * n
    try:
        count = min(most, test_count(source) or most)
        x = model.form.to_data(source.test_data(0, 0, count))
        if label is not None:
            x = x[source.test_labels(0, 0, count) == label]
    except (DataError, OSError):
        return None
    return x[:n]


def on_axes(axes: "Axes", x: Tensor, model: "Model", title: str) -> None:
    """Draw samples alone.

    They are drawn as a grid of images (n, C, H, W) without ticks; points in the plane, over their
    density; curves of channel 0; a histogram of one feature; or a scatter of the first two.
    """
    axes.set_title(title)
    if is_grid(model.form):
        pixels = tile(_grey(x, model.form)).squeeze(-1).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
    elif model.data_shape == (2,):
        Plane.of_model(model, x).draw(axes, x, "tab:red")
    elif len(model.data_shape) == 2:
        axes.plot(x[:_CURVES, 0].T.numpy(), color="tab:red", alpha=0.6, linewidth=0.8)
    elif model.data_shape == (1,):
        axes.hist(x[x.isfinite()].numpy(), bins=_BINS, color="tab:red", alpha=0.6)
    else:
        first, second = x.flatten(1)[:, :2].T.numpy()
        axes.scatter(first, second, s=_DOT, c="tab:red", alpha=0.6, linewidths=0)
        axes.set(xlabel="feature 0", ylabel="feature 1")


# --- vectors and curves

# Data, if they are available, and samples, by their names in the picture; (n, ...), float64.
Examples = Mapping[str, Tensor]


def _pairs(figure: "Figure", examples: Examples) -> None:
    """Histograms of features of vectors on a diagonal, and scatters of pairs of them below it."""
    vectors = {name: x.flatten(1)[:, :_FEATURES].numpy() for name, x in examples.items()}
    low, high = _limits(next(iter(vectors.values())), margin=0.2)
    d = len(low)
    if d > 1:
        figure.set_size_inches(*_PAIRS)
    grid = figure.subplots(d, d, sharex="col", squeeze=False)
    for above_diagonal in zip(*np.triu_indices(d, 1), strict=True):
        grid[above_diagonal].remove()
    for name, x in vectors.items():
        colour, size = ("tab:red", _DOT) if name == "samples" else ("black", 4 * _DOT)
        outside = len(x) - int(((x > low) & (x < high)).all(1).sum())
        for row in range(d):
            weights = np.full(len(x), 1.0 / max(len(x), 1))
            bins = list(np.linspace(low[row], high[row], _BINS + 1))
            grid[row, row].hist(x[:, row], bins, weights=weights, color=colour, alpha=0.5)
            for column in range(row):
                grid[row, column].scatter(
                    x[:, column], x[:, row], s=size, c=colour, alpha=0.5, linewidths=0
                )
        if outside:
            name += f" ({outside} outside the picture)"
        grid[0, 0].plot([], [], "s", color=colour, label=name)
    for row in range(d):
        grid[row, row].set_yticks([])
        grid[d - 1, row].set_xlim(low[row], high[row])
        # The power of ten is on the right.
        grid[d - 1, row].set_xlabel(f"feature {row}", loc="left")
        grid[d - 1, row].xaxis.get_offset_text().set_size("x-small")
        for column in range(row):
            grid[row, column].set_ylim(low[row], high[row])
            grid[row, column].tick_params(labelleft=column == 0)
        if row:
            grid[row, 0].set_ylabel(f"feature {row}")
    for axes in figure.axes:
        axes.locator_params(nbins=3)
        axes.ticklabel_format(scilimits=(-2, 4))
    figure.legend(loc="upper right", bbox_to_anchor=(0.98, 0.94))


def _curves(figure: "Figure", examples: Examples) -> None:
    """Draw curves (C, L): a column for each of ``examples``, a row for each channel.

    All columns have the y limits of the first.
    """
    channels = min(examples["samples"].shape[1], _CHANNELS)
    grid = figure.subplots(channels, len(examples), sharex=True, sharey="row", squeeze=False)
    for column, (name, x) in enumerate(examples.items()):
        curves = x[:_CURVES]
        colour = "tab:red" if name == "samples" else "black"
        if len(curves) < len(x):
            name += f", {len(curves)} of {len(x):,}"
        grid[0, column].set_title(name)
        for channel in range(channels):
            axes = grid[channel, column]
            axes.plot(curves[:, channel].T.numpy(), color=colour, alpha=0.6, linewidth=0.8)
            if column == 0:
                axes.set_ylabel(f"channel {channel}")
                # Turns autoscaling off, also for the later columns, which share y.
                axes.set_ylim(axes.get_ylim())


def _limits(points: Array, margin: float) -> tuple[Array, Array]:
    """Limits (d,) of the finite points among (n, d), with a margin relative to their range."""
    finite = points[np.isfinite(points).all(1)]
    if not len(finite):
        finite = np.zeros((1, points.shape[1]))
    low = finite.min(0)
    high = finite.max(0)
    more = np.where(high > low, margin * (high - low), 1.0)
    return low - more, high + more


# --- grids of images


def require_size(n: int, pixels: int) -> None:
    """Check that a grid of n images of ``pixels`` pixels each fits into memory.

    Raises:
        UsageError: the grid is too large; names the largest possible number of images.
    """
    if n * pixels > MAX_PICTURE:
        raise UsageError(
            f"{n} images are too many for one picture. Draw at most {MAX_PICTURE // pixels}, or an "
            f".npz."
        )


def columns_of(n: int) -> int:
    """The columns of a grid of n images."""
    return math.ceil(math.sqrt(n))


def tile(images: Tensor) -> Tensor:
    """Images (n, C, H, W), uint8, in a nearly square grid on black: (H', W', C)."""
    n, channels, height, width = images.shape
    require_size(n, height * width)
    columns = columns_of(n)
    rows = math.ceil(n / columns)
    down = height + _GAP
    right = width + _GAP
    canvas = torch.zeros(channels, rows * down + _GAP, columns * right + _GAP, dtype=torch.uint8)
    for index, image in enumerate(images.cpu()):
        row, column = divmod(index, columns)
        top = _GAP + row * down
        left = _GAP + column * right
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).contiguous()


def enlarged(pixels: Tensor) -> Tensor:
    """A picture (H, W, C), enlarged by the largest whole factor with which it fits `_WIDTH`."""
    factor = max(1, _WIDTH // pixels.shape[1])
    return pixels.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)


def _named(grid: Tensor, names: Sequence[str]) -> Tensor:
    """A grid of images (H, W, C) with the name of each row to the left of it, (H, W', C)."""
    import matplotlib

    height = len(grid) / len(names)
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(str(file), round(min(0.6 * height, _LETTERS)))
    texts = [one_line(name, 20) for name in names]
    width = _LETTERS + round(max(map(font.getlength, texts)))
    strip = Image.new("L", (width, len(grid)))
    for row, text in enumerate(texts):
        right_middle = (width - _LETTERS // 2, (row + 0.5) * height)
        ImageDraw.Draw(strip).text(right_middle, text, fill=255, font=font, anchor="rm")
    margin = torch.from_numpy(np.array(strip))[:, :, None]
    return torch.cat([margin.expand(-1, -1, grid.shape[2]), grid], dim=1)


def write(path: Path, pixels: Tensor, title: str) -> None:
    """Write a picture, uint8 (H, W, 1 or 3), as PNG, with ``title`` in its metadata."""
    picture = Image.fromarray(pixels.squeeze(-1).numpy())
    about = PngImagePlugin.PngInfo()
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
        shade: (_GRID, _GRID), the square root of the density over its maximum; None if the density
            is unknown.
    """

    low: Array
    high: Array
    examples: Array
    shade: Array | None

    @classmethod
    def of(cls, source: Source, n: int = 0, label: int | None = None) -> "Plane":
        """A square around the test data of a source, with a margin.

        Args:
            n: the most examples to show, beside as many samples; 0: all.
            label: shows only the examples of this class, over their density.
        """
        count = min(max(_EXAMPLES, min(n, _MOST_EXAMPLES)), test_count(source) or _MOST_EXAMPLES)
        z = source.dequantised_test_data(0, 0, count).double()
        examples = form_of(source).to_data(z).numpy()
        low, high = _square(examples)
        shade = None
        if source.density is not None:
            shade = _shade(source.density, tuple(low), tuple(high), label)
        if label is not None:
            examples = examples[source.test_labels(0, 0, len(examples)).numpy() == label]
        return cls(low, high, examples[:n] if n else examples, shade)

    @classmethod
    def of_model(cls, model: "Model", x: Tensor, label: int | None = None) -> "Plane":
        """A square around a model's data, see `of`; without data, around the samples x (n, 2)."""
        try:
            return cls.of(model.source, len(x), label)
        except (DataError, OSError):
            return cls(*_square(x.double().numpy()), np.zeros((0, 2)), None)

    def draw(self, axes: "Axes", points: Tensor | Array, colour: str) -> int:
        """Draw points (n, 2) over the density; returns how many are outside or not finite."""
        points = np.asarray(points, dtype=np.float64)
        extent = (self.low[0], self.high[0], self.low[1], self.high[1])
        if self.shade is not None:
            axes.imshow(
                self.shade, origin="lower", extent=extent, cmap="Blues", vmax=1.4, aspect="equal"
            )
        inside = ((points > self.low) & (points < self.high)).all(1)
        x, y = points[inside].T
        axes.scatter(x, y, s=_DOT, c=colour, alpha=0.6, linewidths=0)
        # The axes have the same scale, so that a ring is round.
        axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
        return len(points) - int(inside.sum())

    def draw_samples(self, axes: "Axes", x: Tensor) -> None:
        """Draw samples (n, 2) by `draw`, with the number of those outside in the title."""
        outside = self.draw(axes, x, "tab:red")
        axes.set_title("samples" + (f" ({outside} outside the picture)" if outside else ""))


def _square(points: Array) -> tuple[Array, Array]:
    """Two corners (2,) of a square around those of points (n, 2) that are finite, with a margin."""
    low, high = _limits(points, margin=0.05)
    middle = (low + high) / 2
    half = 0.5 * (high - low).max()
    return middle - half, middle + half


def _against_line(axes: "Axes", values: Tensor, nodes: Tensor, p: Tensor) -> None:
    """A histogram of the unknown coordinate (n,), and its exact density p at nodes."""
    likely = nodes[p > 1e-4 * p.max()]
    low = float(likely[0])
    high = float(likely[-1])
    margin = 0.1 * (high - low)
    limits = (low - margin, high + margin)
    axes.hist(values.numpy(), bins=120, range=limits, density=True, color="tab:red", alpha=0.5)
    axes.plot(nodes.numpy(), p.numpy(), color="black", linewidth=1.0)
    axes.set(xlim=limits, title="unknown coordinate: samples, and the exact density")


# All pictures of a run show the same square, and computing its density may take half a second.
@functools.lru_cache(maxsize=8)
def _shade(
    density: Toy, low: tuple[float, ...], high: tuple[float, ...], label: int | None
) -> Array | None:
    """The square root of the density, or that of a class, over its maximum; a row for each y.

    None if the density is unknown.
    """
    x = torch.linspace(low[0], high[0], _GRID, dtype=torch.float64)
    y = torch.linspace(low[1], high[1], _GRID, dtype=torch.float64)
    if density.on_grid is not None and label is None:
        p = density.on_grid(x, y).T
        return (p / p.max()).sqrt().numpy()
    log_density = density.log_density_of(label)
    if log_density is None:
        return None
    log_p = log_density(torch.cartesian_prod(x, y)).reshape(_GRID, _GRID).T
    return torch.exp(0.5 * (log_p - log_p.max())).numpy()
