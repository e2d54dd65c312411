"""Pictures of samples, beside the data if they are there.

Grids of images; points in the plane, over the true density of toy data; histograms of pairs of
features; curves.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from .config.schema import MAX_PICTURE
from .config.train import EmaSpec
from .data.form import Form
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

# Of pictures in a grid, in pixels.
_GAP = 2
# Pixels: viewers show a small picture as it is, and 16 images of 32 x 32 would be a stamp.
_WIDTH = 512
# The height of the names of classes, at most.
_LETTERS = 24
# Points on a side at which the density is evaluated for the background.
_GRID = 480
# The area of a dot, in square points of 1/72 inch: narrow lines stay lines, and a few hundred dots
# can still be seen.
_DOT = 1.6
# The limits of the axes come from so many test points at least; more than the second number are
# never drawn.
_EXAMPLES, _MOST_EXAMPLES = 2048, 20_000
# Test data that are searched for those of a class, in multiples of the samples.
_SEARCHED = 16

Array = npt.NDArray[Any]
# Of a figure with data and samples, in inches.
SIDE_BY_SIDE = (8.0, 4.4)
# Of pairs of features, in inches: half as wide, its numbers can still be read.
_PAIRS = (7.4, 7.4)
_DPI = 140
# Of a grid of images.
_MOST_ROWS = 16
# How many features of vectors, channels of curves, and curves a picture shows.
_FEATURES, _CHANNELS, _CURVES = 6, 4, 16
_BINS = 40


# --- pictures of a model's samples


def samples(model: "Model", path: Path, *, seed: int = 0, batch_size: int | None = None) -> None:
    """Draw as many samples as a picture shows, ``batch_size`` at once (None: all), and save them as
    `show` does."""
    count = default_count(model)
    labels = in_rows(model, count)
    drawn = model.draw(count, seed=seed, batch_size=batch_size, label=labels)
    show(path, drawn.x, model, how(model, drawn), labels)


def is_grid(form: Form) -> bool:
    """Whether samples are shown as a grid of images: if they are (C, H, W)."""
    return len(form.shape) == 3


def default_count(model: "Model") -> int:
    """How many samples a picture shows: of images with classes, a row of each class, as far as
    there is room."""
    if not is_grid(model.form):
        return _CURVES if len(model.data_shape) == 2 else 2000
    return min(max(8, len(model.classes or ())), _MOST_ROWS) ** 2


def in_rows(model: "Model", n: int) -> Tensor | None:
    """Labels with which each row of a picture of n images has one class; None for others, and
    without classes."""
    if model.classes is None or not is_grid(model.form):
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
    """A name of its own for all settings of a picture: those that are always there, then those that
    are not defaults.

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
    return (
        "_".join(
            [f"step_{model.step:08d}", spec.method, *always, f"n{n}", *keyed, *others, *average]
        )
        + ".png"
    )


def show(path: Path, x: Tensor, model: "Model", how: str, labels: Tensor | None = None) -> None:
    """Save samples: a grid of images, or a figure as `beside_data` draws it.

    Args:
        how: ends the title.
        labels: those of `in_rows`, (n,): the class of each row is beside it.
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

    Images: a grid whose first image is what was observed, grey where nothing is known. Toy data:
    the samples over the density, beside the data or, with one coordinate known exactly, the
    distribution of the other one against the exact ``line``
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
        made = enlarged(tile(torch.cat([observed, _grey(x, model.form).cpu()])))
    else:
        made = rendered(draw)
    write(path, made, title(x, model, how))


def title(x: Tensor, model: "Model", how: str) -> str:
    """What a picture shows, in a line that begins with the run or file of the model; of any other,
    with its recipe."""
    bad = int((~x.isfinite().flatten(1).all(1)).sum())
    some = f" ({bad:,} not finite)" if bad else ""
    average = EmaSpec(length=model.ema_length).words
    weights = f"step {model.step:,}" + (f", {average}" if average else "")
    name = model.recipe.name if model.path is None else model.path.name.removesuffix(".safetensors")
    return (
        f"{one_line(name, 60)}, {weights}: {len(x):,} samples{some}{_left_out(model.form)}, {how}"
    )


def _left_out(form: Form) -> str:
    """In words, after a comma, which part of each sample a picture shows; empty if it shows all of
    it."""
    parts = form.shape[0]
    if is_grid(form):
        return "" if form.kind == "images" else f", channel 0 of {parts}"
    what, most = ("channels", _CHANNELS) if len(form.shape) == 2 else ("features", _FEATURES)
    return f", {what} 0 to {most - 1} of {parts}" if parts > most else ""


def pixels(x: Tensor, model: "Model", labels: Tensor | None = None) -> Tensor:
    """The picture that `show` saves: uint8, (H, W, C)."""
    if not is_grid(model.form):
        return rendered(lambda figure: beside_data(figure, x.cpu(), model))
    grid = enlarged(tile(_grey(x, model.form)))
    if labels is None or model.classes is None:
        return grid
    of_rows = labels[:: columns_of(len(x))].tolist()
    return _named(grid, [model.classes.names[label] for label in of_rows])


def _grey(x: Tensor, form: Form) -> Tensor:
    """Samples (n, C, H, W) as uint8 images, (n, 1 or 3, H, W)."""
    return to_grey(x if form.kind == "images" else x[:, :1], form)


def rendered(draw: "Callable[[Figure], object]") -> Tensor:
    """What ``draw`` draws into a figure with room for two squares, unless it is resized: uint8, (H,
    W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIDE_BY_SIDE, dpi=_DPI, layout="constrained")
    draw(figure)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves its methods untyped.
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3])


def beside_data(figure: "Figure", x: Tensor, model: "Model", label: int | None = None) -> None:
    """Draw samples x (n, ...), and test data, of a class if there is a ``label``, for comparison.

    Points in the plane and curves are side by side, on equal axes. Of other vectors, there are
    histograms of features and scatters of pairs of them. Data that are not there are left out.
    """
    if model.data_shape == (2,):
        plane = Plane.of_model(model, x, label)
        *others, right = figure.subplots(
            1, 1 + bool(len(plane.examples)), sharex=True, sharey=True, squeeze=False
        )[0]
        for left in others:
            plane.draw(left, plane.examples, "tab:gray")
            left.set_title(_data_of(label))
        plane.draw_samples(right, x)
        return
    shown = {"samples": x.double()}
    if (examples := _examples(model, len(x), label)) is not None:
        shown = {_data_of(label): examples.double(), **shown}
    (_curves if len(model.data_shape) == 2 else _pairs)(figure, shown)


def _data_of(label: int | None) -> str:
    return "data" if label is None else f"data of label {label}"


def _examples(model: "Model", n: int, label: int | None) -> Tensor | None:
    """Test data (m, ...), of a class if there is a ``label``, to show beside n samples; None if
    they are missing."""
    source = model.source
    try:
        wanted = n if label is None else _SEARCHED * n
        count = min(wanted, test_count(source) or wanted)
        x = model.form.to_data(source.test_data(0, 0, count))
        return x[:n] if label is None else x[source.test_labels(0, 0, count) == label][:n]
    except (DataError, OSError):
        return None


def on_axes(axes: "Axes", x: Tensor, model: "Model", title: str) -> None:
    """Draw samples alone: a grid of images (n, C, H, W) without ticks, points over their density,
    curves of channel 0.

    Of vectors of one number, that is a histogram, and of more than two the first two features.
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

# Data, if they are there, and samples (n, ...), float64, by what they are called.
Shown = Mapping[str, Tensor]


def _pairs(figure: "Figure", shown: Shown) -> None:
    """Histograms of features of vectors on a diagonal, and scatters of pairs of them below; of one,
    a histogram."""
    vectors = {name: x.flatten(1)[:, :_FEATURES].numpy() for name, x in shown.items()}
    low, high = _limits(next(iter(vectors.values())), margin=0.2)
    d = len(low)
    if d > 1:
        figure.set_size_inches(*_PAIRS)
    grid = figure.subplots(d, d, sharex="col", squeeze=False)
    for place in zip(*np.triu_indices(d, 1), strict=True):
        grid[place].remove()
    for name, x in vectors.items():
        colour, size = ("tab:red", _DOT) if name == "samples" else ("black", 4 * _DOT)
        lost = len(x) - int(((x > low) & (x < high)).all(1).sum())
        for row in range(d):
            weights = np.full(len(x), 1.0 / max(len(x), 1))
            bins = list(np.linspace(low[row], high[row], _BINS + 1))
            grid[row, row].hist(x[:, row], bins, weights=weights, color=colour, alpha=0.5)
            for column in range(row):
                grid[row, column].scatter(
                    x[:, column], x[:, row], s=size, c=colour, alpha=0.5, linewidths=0
                )
        grid[0, 0].plot(
            [],
            [],
            "s",
            color=colour,
            label=name + (f" ({lost} outside the picture)" if lost else ""),
        )
    for row in range(d):
        grid[row, row].set_yticks([])
        grid[d - 1, row].set_xlim(low[row], high[row])
        # The power of ten is to the right.
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


def _curves(figure: "Figure", shown: Shown) -> None:
    """Some curves (C, L) of each, side by side, with a row for each channel; the axes are those of
    the first."""
    channels = min(shown["samples"].shape[1], _CHANNELS)
    grid = figure.subplots(channels, len(shown), sharex=True, sharey="row", squeeze=False)
    for column, (name, x) in enumerate(shown.items()):
        some, colour = x[:_CURVES], "tab:red" if name == "samples" else "black"
        grid[0, column].set_title(
            f"{name}, {len(some)} of {len(x):,}" if len(some) < len(x) else name
        )
        for channel in range(channels):
            axes = grid[channel, column]
            axes.plot(some[:, channel].T.numpy(), color=colour, alpha=0.6, linewidth=0.8)
            if column == 0:
                axes.set_ylabel(f"channel {channel}")
                axes.set_ylim(axes.get_ylim())


def _limits(points: Array, margin: float) -> tuple[Array, Array]:
    """The lowest and highest of points (n, d) that are finite, with a margin relative to their
    range, (d,) each."""
    finite = points[np.isfinite(points).all(1)]
    finite = finite if len(finite) else np.zeros((1, points.shape[1]))
    low, high = finite.min(0), finite.max(0)
    more = np.where(high > low, margin * (high - low), 1.0)
    return low - more, high + more


# --- grids of images


def require_size(n: int, pixels: int) -> None:
    """Refuse a grid of n images with so many pixels each that cannot be made in memory.

    Raises:
        UsageError: names how many can be.
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
    """Images (n, C, H, W), uint8, side by side on black: (H', W', C), as nearly square as n
    allows."""
    n, channels, height, width = images.shape
    require_size(n, height * width)
    columns, gap = columns_of(n), _GAP
    rows = math.ceil(n / columns)
    canvas = torch.zeros(
        channels, rows * (height + gap) + gap, columns * (width + gap) + gap, dtype=torch.uint8
    )
    for index, image in enumerate(images.cpu()):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).contiguous()


def enlarged(pixels: Tensor) -> Tensor:
    """A picture (H, W, C) with each pixel as a square of several: as many as fit `_WIDTH`, or
    one."""
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
        place = (width - _LETTERS // 2, (row + 0.5) * height)
        ImageDraw.Draw(strip).text(place, text, fill=255, font=font, anchor="rm")
    shown = torch.from_numpy(np.array(strip))[:, :, None]
    return torch.cat([shown.expand(-1, -1, grid.shape[2]), grid], dim=1)


def write(path: Path, pixels: Tensor, title: str) -> None:
    """A picture, uint8 (H, W, C) with C of 1 or 3, as PNG; ``title`` goes into its metadata."""
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
            is not known.
    """

    low: Array
    high: Array
    examples: Array
    shade: Array | None

    @classmethod
    def of(cls, source: Source, n: int = 0, label: int | None = None) -> "Plane":
        """A square around the test data of a source, with a margin, and data to show beside n
        samples.

        Args:
            label: shows the examples of this class alone, over their density.
        """
        count = min(max(_EXAMPLES, min(n, _MOST_EXAMPLES)), test_count(source) or _MOST_EXAMPLES)
        examples = (
            form_of(source).to_data(source.dequantised_test_data(0, 0, count).double()).numpy()
        )
        low, high = _square(examples)
        shade = (
            None
            if source.density is None
            else _shade(source.density, tuple(low), tuple(high), label)
        )
        if label is not None:
            examples = examples[source.test_labels(0, 0, len(examples)).numpy() == label]
        return cls(low, high, examples[:n] if n else examples, shade)

    @classmethod
    def of_model(cls, model: "Model", x: Tensor, label: int | None = None) -> "Plane":
        """As `of`, for samples x (n, 2) of a model; a square around them, without examples, if its
        data are missing."""
        try:
            return cls.of(model.source, len(x), label)
        except (DataError, OSError):
            return cls(*_square(x.double().numpy()), np.zeros((0, 2)), None)

    def draw(self, axes: "Axes", points: Tensor | Array, colour: str) -> int:
        """Draw points (n, 2) over the density; returns how many are outside of the picture, or not
        finite."""
        points = np.asarray(points, dtype=np.float64)
        if self.shade is not None:
            extent = (self.low[0], self.high[0], self.low[1], self.high[1])
            axes.imshow(
                self.shade, origin="lower", extent=extent, cmap="Blues", vmax=1.4, aspect="equal"
            )
        inside = ((points > self.low) & (points < self.high)).all(1)
        axes.scatter(
            points[inside, 0], points[inside, 1], s=_DOT, c=colour, alpha=0.6, linewidths=0
        )
        # A ring is a ring.
        axes.set(xlim=(self.low[0], self.high[0]), ylim=(self.low[1], self.high[1]), aspect="equal")
        return len(points) - int(inside.sum())

    def draw_samples(self, axes: "Axes", x: Tensor) -> None:
        """Draw samples (n, 2) as `draw` does; the title says how many are outside of the
        picture."""
        outside = self.draw(axes, x, "tab:red")
        axes.set_title("samples" + (f" ({outside} outside the picture)" if outside else ""))


def _square(points: Array) -> tuple[Array, Array]:
    """Two corners, (2,) each, of a square around points (n, 2), those that are finite, with a
    margin."""
    low, high = _limits(points, margin=0.05)
    middle, half = (low + high) / 2, 0.5 * (high - low).max()
    return middle - half, middle + half


def _against_line(axes: "Axes", values: Tensor, nodes: Tensor, p: Tensor) -> None:
    """A histogram of the unknown coordinate (n,), and its exact density p at nodes."""
    shown = nodes[p > 1e-4 * p.max()]
    low, high = float(shown[0]), float(shown[-1])
    margin = 0.1 * (high - low)
    axes.hist(
        values.numpy(),
        bins=120,
        range=(low - margin, high + margin),
        density=True,
        color="tab:red",
        alpha=0.5,
    )
    axes.plot(nodes.numpy(), p.numpy(), color="black", linewidth=1.0)
    axes.set(
        xlim=(low - margin, high + margin),
        title="unknown coordinate: samples, and the exact density",
    )


# The pictures of a run show the same square, and its density may take half a second.
@functools.lru_cache(maxsize=8)
def _shade(
    density: Toy, low: tuple[float, ...], high: tuple[float, ...], label: int | None
) -> Array | None:
    """The square root of the density, or of that of a class, over its maximum, a row for each y;
    None if unknown."""
    x, y = (torch.linspace(low[i], high[i], _GRID, dtype=torch.float64) for i in range(2))
    if density.on_grid is not None and label is None:
        p = density.on_grid(x, y).T
        return (p / p.max()).sqrt().numpy()
    log_density = density.log_density_of(label)
    if log_density is None:
        return None
    log_p = log_density(torch.cartesian_prod(x, y)).reshape(_GRID, _GRID).T
    return torch.exp(0.5 * (log_p - log_p.max())).numpy()
