"""What identifies the data of a recipe, in a few texts for a ledger (`cld_core.run.same_data` compares them)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cld_core import seeds
from cld_core.config.data import DataSpec, ImageDataSpec, ToyDataSpec
from cld_core.config.plugins import fingerprint
from cld_core.run.same_data import IMAGES, MEANS, PLUGIN, POINTS

from . import store, toy

# Points of a density that are noted one by one; and how many more, of which the means of GROUP are: a density that
# differs in few of its points, as by the weight of a part, differs in some of the means.
COUNT, MANY, GROUP = 8, 240, 16


def of(spec: DataSpec, plugins: Sequence[str] = ()) -> Mapping[str, str]:
    """What identifies these data.

    Of images the checksum that their preparation noted, of toy data some points and the means of more. A plug-in that
    draws its noise from elsewhere than its generator has no such points: then only the digest of its file is there.

    Args:
        plugins: of the recipe, which have been imported.

    Raises:
        DataError: there are no such data.
    """
    if isinstance(spec, ImageDataSpec):
        return {IMAGES: store.fingerprint(spec, "train")}
    assert isinstance(spec, ToyDataSpec), f"unknown kind of data: {type(spec).__name__}"
    about = _drawn(toy.get(spec.name))
    if (digest := fingerprint(plugins)) is not None:
        about[PLUGIN] = digest
    return about


def _drawn(density: toy.Toy) -> dict[str, str]:
    """Some points of a density, and means of more, as text; empty if it does not draw the same ones twice."""
    first, second = _draw(density, 0), _draw(density, 1)
    return first if first == second else {}


def _draw(density: toy.Toy, seed: int) -> dict[str, str]:
    # One that ignores its generator must not change the noise of others.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        points = density.sample(COUNT, seeds.generator("identity of data"))
        more = density.sample(MANY, seeds.generator("identity of data"))
    means = more.double().unflatten(0, (-1, GROUP)).mean(1)
    return {POINTS: _text(points.flatten()[: 4 * COUNT]), MEANS: _text(means.flatten()[: 4 * MANY // GROUP])}


def _text(numbers: Tensor) -> str:
    return " ".join(f"{number:.6g}" for number in numbers.tolist())


def or_nothing(spec: DataSpec, plugins: Sequence[str] = ()) -> Mapping[str, str]:
    """As `of`; empty where something is wrong with the data, which training then says."""
    try:
        return of(spec, plugins)
    except Exception:  # besides DataError and OSError: user code may raise anything
        return {}
