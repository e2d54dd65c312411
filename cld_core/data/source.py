"""The interface through which training and evaluation get their data, whatever the data set."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from cld_core import seeds
from cld_core.classes import Classes
from cld_core.config import Recipe, registry
from cld_core.config.data import DataSpec, StoredDataSpec, ToyDataSpec
from cld_core.errors import DataError
from cld_core.registration import described, fingerprint, trial
from cld_core.run.identity import IMAGES, MEANS, PLUGIN, POINTS

from . import store, toy
from .form import Form
from .toy import Toy

# Points of a density that identify it, one by one; and how many more, of which the means of GROUP
# do: a density that differs in few of its points, as by the weight of a part, differs in some of
# the means.
COUNT, MANY, GROUP = 8, 240, 16
# Examples of a plug-in that are looked at.
TRIED = 7
# Examples by which the scale of data is judged, and numbers in them, at most.
_JUDGED, _NUMBERS = 1000, 1 << 24


class Source(Protocol):
    """Examples by number: a batch is a function of its arguments alone.

    Sources without labels need not have what is about them: see `classes_of`. What batches and test
    data hold is what the model sees: a source that scales its data has a ``form``, see `form_of`,
    which is set to that of a checkpoint.
    """

    density: Toy | None  # if the distribution of the data is known by name
    wait_s: float  # seconds spent waiting for the last batch

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example, (C, ...)."""

    @property
    def grey_levels(self) -> int | None:
        """Of an image's pixel, over [-1, 1]; None if data are real numbers."""

    @property
    def classes(self) -> Classes | None:
        """That labels are indices of; None if there are no labels, or the recipe wants none."""

    def batch(self, seed: int, restart: int, step: int, size: int, rows: slice) -> Tensor:
        """Rows ``rows`` of the global batch of ``size`` examples of a step, (len(rows), C, ...)."""

    def dequantised_test_data(self, seed: int, first: int, last: int) -> Tensor:
        """The test points ``first <= i < last``, (last - first, C, ...), as points of a density."""

    def test_data(self, seed: int, first: int, last: int) -> Tensor:
        """The same examples in the form that training sees: images are not dequantised."""

    def close(self) -> None:
        """Stop reading ahead."""

    def labelled_batch(
        self, seed: int, restart: int, step: int, size: int, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """What `batch` returns, and the labels, (len(rows),), int64, which may be on another
        device."""

    def test_labels(self, seed: int, first: int, last: int) -> Tensor:
        """The labels of the test points ``first <= i < last``, (last - first,), int64."""


def classes_of(source: Source) -> Classes | None:
    """The classes of a source; None if its examples have no labels.

    Raises:
        DataError: labels are wanted, but the data are missing or have none.
    """
    return getattr(source, "classes", None)


def source(spec: DataSpec, device: torch.device | str = "cpu", form: Form | None = None) -> Source:
    """The data of a recipe's `data` section; stored examples are read when they are first needed.

    Args:
        device: where batches are wanted. Those of stored examples are made there.
        form: of the data that a model was trained on; None: of the data as they are now.

    Raises:
        DataError: there is no such toy density.
    """
    made: Source = registry.build("data", spec, device)
    if form is not None:
        use_form(made, form)
    return made


def require_usable(recipe: Recipe) -> tuple[int, ...]:
    """The shape of an example of a plug-in's data, of which one small batch is looked at.

    Raises:
        RecipeError, DataError: the batch, or its labels, cannot be trained on; or what makes it
            fails.
    """
    with trial("data.name", recipe.data.name):
        made = source(recipe.data)
        shape, classes = (TRIED, *made.shape), classes_of(made)
        asked = (0, 0, 0, TRIED, slice(0, TRIED))
        x, label = (made.batch(*asked), None) if classes is None else made.labelled_batch(*asked)
        made.close()
        if not isinstance(x, Tensor) or tuple(x.shape) != shape or not x.is_floating_point():
            raise ValueError(
                f"it gives {described(x)} for {TRIED} examples, not float32 of shape {shape}"
            )
        if not x.isfinite().all():
            raise ValueError("it gives numbers that are not finite")
        if classes is not None and label is not None:
            numbers = label.tolist() if label.dtype == torch.int64 and len(label) == TRIED else [-1]
            if not set(numbers) <= set(range(len(classes))):
                text = (
                    f"labels that are not whole numbers (int64) from 0 to {len(classes) - 1}, "
                    f"one an example"
                )
                raise ValueError(f"it gives {text}")
    return tuple(made.shape)


def form_of(source: Source) -> Form:
    """The form of a source's examples."""
    made: Form | None = getattr(source, "form", None)
    return Form(shape=tuple(source.shape), grey_levels=source.grey_levels) if made is None else made


def use_form(source: Any, form: Form) -> None:
    """Let a source see its data as a model did that was trained on them; those that have no form of
    their own do."""
    if hasattr(type(source), "form"):
        source.form = form


def test_count(source: Source) -> int | None:
    """How many test examples there are; None if as many as are wanted, as of a density.

    Raises:
        DataError: the data are missing.
    """
    test = getattr(source, "test", None)
    return None if test is None else int(test.n)


def data_std(source: Source) -> float:
    """`objective.data_std` of what the model sees: in one digit, by some training examples; 1 if
    all are 0."""
    n = max(1, min(_JUDGED, _NUMBERS // math.prod(source.shape)))
    x = source.batch(0, 0, 0, n, slice(0, n))
    return float(f"{float(x.square().mean().sqrt()):.1g}") or 1.0


class DescribedSource:
    """Data of which only the form is known: enough to sample, nothing to train on.

    Args:
        why: the error of whoever asks for examples.
    """

    density: Toy | None = None
    wait_s = 0.0
    classes: Classes | None = None

    def __init__(self, form: Form, why: str) -> None:
        self.form, self.why = form, why
        self.shape, self.grey_levels = form.shape, form.grey_levels

    def batch(self, *arguments: Any, **more: Any) -> NoReturn:
        """Raises DataError, as the others do."""
        raise DataError(self.why)

    dequantised_test_data = test_data = labelled_batch = test_labels = batch

    def close(self) -> None:
        """Nothing reads ahead."""


def identity(spec: DataSpec, plugins: Sequence[str] = ()) -> Mapping[str, str]:
    """What identifies these data.

    Of images the checksum that their preparation noted, of arrays that of their examples, of toy
    data some points and the means of more. A plug-in that draws its noise from elsewhere than its
    generator has no such points: then only the digest of its file is there.

    Args:
        plugins: of the recipe, which have been imported.

    Raises:
        DataError: there are no such data.
    """
    if isinstance(spec, StoredDataSpec):
        return {IMAGES: store.of(spec).split("train").digest}
    assert isinstance(spec, ToyDataSpec), f"unknown kind of data: {type(spec).__name__}"
    about = _drawn(toy.get(spec.name))
    if (digest := fingerprint(plugins)) is not None:
        about[PLUGIN] = digest
    return about


def _drawn(density: toy.Toy) -> dict[str, str]:
    """Some points of a density, and means of more, as text; empty if it does not draw the same ones
    twice."""
    first, second = _draw(density, 0), _draw(density, 1)
    return first if first == second else {}


def _draw(density: toy.Toy, seed: int) -> dict[str, str]:
    # One that ignores its generator must not change the noise of others.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        points = density.sample(COUNT, seeds.generator("identity of data"))
        more = density.sample(MANY, seeds.generator("identity of data"))
    means = more.double().unflatten(0, (-1, GROUP)).mean(1)
    return {POINTS: _text(points), MEANS: _text(means)}


def _text(numbers: Tensor) -> str:
    return " ".join(f"{number:.6g}" for number in numbers.flatten().tolist())


def identity_or_nothing(spec: DataSpec, plugins: Sequence[str] = ()) -> Mapping[str, str]:
    """As `identity`; empty where something is wrong with the data, which training then says."""
    try:
        return identity(spec, plugins)
    except Exception:  # besides DataError and OSError: user code may raise anything
        return {}
