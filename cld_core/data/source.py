"""The interface through which training and evaluation get their data, whatever the data set."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from cld_core import seeds
from cld_core.classes import Classes
from cld_core.config import Recipe
from cld_core.config.data import DataSpec, StoredDataSpec, ToyDataSpec
from cld_core.config.keys import Shape
from cld_core.config.registry import implementation_of
from cld_core.errors import DataError
from cld_core.plugins import described, fingerprint, trial
from cld_core.run.identity import IMAGES, MEANS, PLUGIN, POINTS

from . import store, toy
from .format import DataFormat
from .toy import Toy

# A density is identified by the first COUNT points that it draws, and by the means of groups of
# GROUP among MANY more: if it differs from another in few points, as by the weight of a part, it
# differs in some of the means.
COUNT = 8
MANY = 240
GROUP = 16
# Examples that a plug-in's data are checked by.
TRIED = 7
# The most examples, and numbers in them, that the scale of data is estimated from.
_JUDGED = 1000
_NUMBERS = 1 << 24


class Source(Protocol):
    """Examples by number: a batch is a function of its arguments alone.

    Sources without labels may leave out everything about labels: see `classes_of`. Batches and test
    data are what the model sees. A source that scales its data has a ``form``, see `form_of`, which
    is set to that of a checkpoint.
    """

    density: Toy | None  # the distribution of toy data
    wait_s: float  # seconds spent waiting for the last batch

    @property
    def shape(self) -> Shape:
        """The shape of one example, (C, ...)."""

    @property
    def grey_levels(self) -> int | None:
        """The grey levels of an image's pixel, over [-1, 1]; None if data are real numbers."""

    @property
    def classes(self) -> Classes | None:
        """The classes of the labels; None if there are none, or the recipe does not use them."""

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        """Rows ``rows`` of the global batch of ``size`` examples of a step, (len(rows), C, ...)."""

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        """The test points ``first <= i < last``, (last - first, C, ...), as points of a density."""

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        """The same test points in the form of training examples: images are not dequantised."""

    def close(self) -> None:
        """Stop reading ahead."""

    def labelled_batch(
        self, seed: int, restart: int, step: int, size: int, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """The batch, and its labels, (len(rows),), int64, which may be on another device."""

    def test_labels(self, seed: int, first: int, last: int) -> Tensor:
        """The labels of the test points ``first <= i < last``, (last - first,), int64."""


def classes_of(source: Source) -> Classes | None:
    """The classes of a source; None if its examples have no labels.

    Raises:
        DataError: the recipe uses labels, but the data are missing or have none.
    """
    return getattr(source, "classes", None)


def source(
    spec: DataSpec, device: torch.device | str = "cpu", form: DataFormat | None = None
) -> Source:
    """The data of a recipe's `data` section; stored examples are read when they are first needed.

    Args:
        device: the device that batches of stored examples are on.
        form: the form of the data that a model was trained on; None: the form of the data now.

    Raises:
        DataError: there is no such toy density.
    """
    made: Source = implementation_of("data", spec)(spec, device)
    if form is not None:
        use_form(made, form)
    return made


def require_usable(recipe: Recipe) -> Shape:
    """The shape of an example of a plug-in's data, after a check of a small batch.

    Raises:
        RecipeError, DataError: training cannot use the batch or its labels; or making it fails.
    """
    with trial("data.name", recipe.data.name):
        examples = source(recipe.data)
        shape = (TRIED, *examples.shape)
        classes = classes_of(examples)
        first_batch = (0, 0, 0, TRIED, slice(0, TRIED))
        label = None
        if classes is None:
            x = examples.batch(*first_batch)
        else:
            x, label = examples.labelled_batch(*first_batch)
        examples.close()
        if not isinstance(x, Tensor) or tuple(x.shape) != shape or not x.is_floating_point():
            raise ValueError(
                f"it gives {described(x)} for {TRIED} examples, not float32 of shape {shape}"
            )
        if not x.isfinite().all():
            raise ValueError("it gives numbers that are not finite")
        if classes is not None and label is not None:
            is_typed = label.dtype == torch.int64 and len(label) == TRIED
            if not is_typed or not set(label.tolist()) <= set(range(len(classes))):
                raise ValueError(
                    "it gives labels that are not whole numbers (int64) from 0 to "
                    f"{len(classes) - 1}, one an example"
                )
    return tuple(examples.shape)


def form_of(source: Source) -> DataFormat:
    """The form of a source's examples."""
    form: DataFormat | None = getattr(source, "form", None)
    if form is None:
        return DataFormat(shape=tuple(source.shape), grey_levels=source.grey_levels)
    return form


def use_form(source: Any, form: DataFormat) -> None:
    """Let a source scale its data as for a model that was trained on them, if it scales them."""
    if hasattr(type(source), "form"):
        source.form = form


def test_count(source: Source) -> int | None:
    """The number of test examples; None for a density, which draws any number.

    Raises:
        DataError: the data are missing.
    """
    test = getattr(source, "test", None)
    return None if test is None else int(test.n)


def data_std(source: Source) -> float:
    """A value for `objective.data_std`.

    It is the standard deviation of some training examples, in one digit; 1 if all of them are 0.
    """
    n = max(1, min(_JUDGED, _NUMBERS // math.prod(source.shape)))
    x = source.batch(0, 0, 0, n, slice(0, n))
    return float(f"{float(x.square().mean().sqrt()):.1g}") or 1.0


class DescribedSource:
    """A source that knows only the form of its data, which is enough to draw samples.

    Args:
        why: the message of the error that reading examples raises.
    """

    density: Toy | None = None
    wait_s = 0.0
    classes: Classes | None = None

    def __init__(self, form: DataFormat, why: str) -> None:
        self.form = form
        self.why = why
        self.shape = form.shape
        self.grey_levels = form.grey_levels

    def batch(self, *arguments: Any, **more: Any) -> NoReturn:
        """Raises DataError."""
        raise DataError(self.why)

    dequantised_test_data = batch
    test_data = batch
    labelled_batch = batch
    test_labels = batch

    def close(self) -> None:
        """Do nothing, because nothing is read ahead."""


def identity(spec: DataSpec, plugins: Sequence[str] = ()) -> Mapping[str, str]:
    """A checksum, or points, that identify data.

    Images have the checksum of their preparation, arrays that of their examples, toy data some
    points and the means of more. A plug-in that does not draw all its noise from its generator has
    no such points, but only the digest of its file.

    Args:
        plugins: the recipe's plug-ins, which have been imported.

    Raises:
        DataError: the data are missing, or cannot be used.
    """
    if isinstance(spec, StoredDataSpec):
        return {IMAGES: store.of(spec).split("train").digest}
    assert isinstance(spec, ToyDataSpec), f"unknown kind of data: {type(spec).__name__}"
    density = toy.get(spec.name)
    points = _draw(density, 0)
    # Points that cannot be drawn again identify nothing.
    about = points if points == _draw(density, 1) else {}
    if (digest := fingerprint(plugins)) is not None:
        about[PLUGIN] = digest
    return about


def _draw(density: toy.Toy, seed: int) -> dict[str, str]:
    """Points of a density, and means of more, as text."""
    # A density that ignores its generator must not change global random numbers.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        points = density.sample(COUNT, seeds.generator("identity of data"))
        more = density.sample(MANY, seeds.generator("identity of data"))
    means = more.double().unflatten(0, (-1, GROUP)).mean(1)
    return {POINTS: _text(points), MEANS: _text(means)}


def _text(numbers: Tensor) -> str:
    return " ".join(f"{number:.6g}" for number in numbers.flatten().tolist())


def identity_or_nothing(spec: DataSpec, plugins: Sequence[str] = ()) -> Mapping[str, str]:
    """The `identity` of data; empty if they cannot be used, which training then reports."""
    try:
        return identity(spec, plugins)
    except Exception:  # user code may raise anything
        return {}
