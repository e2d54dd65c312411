"""What the data of a recipe are, in a few texts for a ledger (`cld_core.run.same_data` compares them)."""

from collections.abc import Mapping
from pathlib import Path

import torch

from cld_core import seeds
from cld_core.digests import checksum
from cld_core.errors import DataError
from cld_core.recipe.data import DataSpec, ImageDataSpec, ToyDataSpec
from cld_core.run.same_data import IMAGES, PLUGIN, POINTS

from . import presence, toy

# Points that stand for a density.
COUNT = 8


def of(spec: DataSpec) -> Mapping[str, str]:
    """What tells these data from others.

    Of images the checksum that their preparation noted, of toy data some points. A plug-in that draws its noise from
    elsewhere than its generator has no such points: then only the digest of its file is there.

    Raises:
        DataError: there are no such data, or the plug-in cannot be imported.
    """
    if isinstance(spec, ImageDataSpec):
        return {IMAGES: presence.fingerprint(spec, "train")}
    assert isinstance(spec, ToyDataSpec), f"unknown kind of data: {type(spec).__name__}"
    about = {}
    if (points := _points(toy.get(spec.name, spec.plugin))) is not None:
        about[POINTS] = points
    if spec.plugin is not None and spec.plugin.endswith(".py"):
        about[PLUGIN] = checksum(Path(spec.plugin))
    return about


def _points(density: toy.Toy) -> str | None:
    """Some points of a density as text; None if it does not draw the same ones twice."""
    drawn: list[str] = []
    for _ in range(2):
        # One that ignores its generator must not change the noise of others.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(drawn))
            points = density.sample(COUNT, seeds.generator("identity of data"))
        drawn.append(" ".join(f"{number:.6g}" for number in points.flatten()[: 4 * COUNT].tolist()))
    return drawn[0] if drawn[0] == drawn[1] else None


def or_nothing(spec: DataSpec) -> Mapping[str, str]:
    """As `of`; empty where something is wrong with the data, which training then says."""
    try:
        return of(spec)
    except (DataError, OSError):
        return {}
    except Exception:  # user code may raise anything
        return {}
