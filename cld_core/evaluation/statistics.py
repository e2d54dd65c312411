"""Statistics of a training set, as files: our own, and both layouts that others publish.

    mu (D,), sigma (D, D)      means and covariance of the features (EDM and many more)
    pool_3 (n, D)              the features themselves (score_sde, CLD-SGM)

`cldctl data stats` writes the first, with ``--features`` both, and ``about``, a JSON text on what they were made from.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cld_core.data import presence
from cld_core.errors import UsageError
from cld_core.recipe import Recipe
from cld_core.recipe.image_spec import ImageDataSpec
from cld_core.run.atomic import write_arrays

from . import inputs
from .moments import Moments

FEATURES = "pool_3"


@dataclass(frozen=True)
class Outline:
    """What a statistics file holds, without its numbers."""

    dimensions: int
    images: int | None
    features: int | None
    about: dict[str, Any]
    layout: str


@dataclass(frozen=True)
class Reference:
    """Statistics of a training set: mean (D,) and covariance (D, D), float64; features (n, D) where there are any."""

    mu: np.ndarray
    sigma: np.ndarray
    features: np.ndarray | None
    images: int | None
    layout: str


def default_file(data: ImageDataSpec, extractor: dict[str, Any]) -> Path:
    """Where the statistics of a data set lie unless somebody says otherwise: beside the images."""
    digest = inputs.digest({**extractor, "data": presence.fingerprint(data, "train")})
    return Path(data.path).expanduser().absolute() / f"stats-{extractor['extractor']}-{digest[:8]}.npz"


def find(recipe: Recipe, extractor: dict[str, Any], dimensions: int, features: set[str]) -> tuple[Path, dict[str, Any]]:
    """The statistics that a recipe's evaluation compares with, and their identity and number of features.

    Args:
        extractor: identity of the extractor.
        dimensions: how many features it has.
        features: the metrics that need the features themselves.

    Raises:
        UsageError: they are missing, of another size, of another extractor, or without features.
    """
    assert isinstance(recipe.data, ImageDataSpec), "statistics are of images"
    given = recipe.eval.fid.stats
    path = default_file(recipe.data, extractor) if given is None else Path(given).expanduser().absolute()
    command = f"`cldctl data stats RECIPE|RUN{' --features' if features else ''}`"
    if not path.is_file():
        where = "there are no statistics of the training images" if given is None else "'eval.fid.stats' names no file"
        raise UsageError(f"{where}: {path} is missing. Compute them with {command}, or name a file in eval.fid.stats.")
    found = outline(path)
    if found.dimensions != dimensions:
        own = f"{extractor['extractor']}, layer {extractor['layer']}, has {dimensions}"
        raise UsageError(
            f"{path} has statistics of {found.dimensions} features, but {own}. Compute them with {command}."
        )
    for name in ("extractor", "layer", "weights", "plugin"):
        if found.about and found.about.get(name) != extractor.get(name):
            text = f"was made with {name} {found.about.get(name)}, not {extractor.get(name)}"
            raise UsageError(f"{path} {text}. Compute statistics with {command}.")
    if features and found.features is None:
        asked = " and ".join(f"--{name}" for name in sorted(features))
        text = f"has no features of single images, which {asked} need"
        raise UsageError(f"{path} {text}. Compute them with {command}.")
    if found.layout != FEATURES:
        read(path)  # Some 30 MB, and a wrong number in them would be found after all samples were drawn.
    return path, {"identity": _identity(path, found), "features": found.features if features else None}


def unchanged(path: Path, identity: str) -> Path:
    """``path``, when the statistics in it are those that an evaluation was asked for with.

    Raises:
        UsageError: they are gone, or others.
    """
    if not path.is_file():
        raise UsageError(f"{path}: the statistics are gone since the evaluation was asked for. Put them back.")
    if _identity(path, outline(path)) != identity:
        raise UsageError(f"{path}: other statistics than when the evaluation was asked for. Type it again.")
    return path


def outline(path: Path) -> Outline:
    """Shapes and origin of a statistics file; reads no more than its headers.

    Raises:
        UsageError: it is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {name.removesuffix(".npy"): _shape(archive, name) for name in archive.namelist()}
        about = _about(path) if "about" in shapes else {}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no .npz file of statistics ({error}). Correct eval.fid.stats.") from error
    mu, sigma, rows = shapes.get("mu", ()), shapes.get("sigma", ()), shapes.get(FEATURES, ())
    features = rows[0] if len(rows) == 2 else None
    if len(mu) == 1 and sigma == (*mu, *mu):
        layout = f"mu, sigma, {FEATURES}" if features else "mu, sigma"
        return Outline(mu[0], about.get("images", features), features, about, layout)
    if features is not None:
        return Outline(rows[1], features, features, about, FEATURES)
    there = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
    raise UsageError(f"{path} has neither mu and sigma nor {FEATURES}, but {there}. Correct eval.fid.stats.")


def read(path: Path, *, features: bool = False) -> Reference:
    """The statistics in a file of any layout; with ``features`` also those.

    Raises:
        UsageError: it is no such file, or has numbers that are not finite.
    """
    found = outline(path)
    with np.load(path, allow_pickle=False) as content:
        rows = content[FEATURES] if FEATURES in content and (features or "mu" not in content) else None
        if "mu" in content:
            mu, sigma = content["mu"].astype(np.float64), content["sigma"].astype(np.float64)
        else:
            assert rows is not None, "an outline has mu and sigma or features"
            moments = Moments.of(rows)
            mu, sigma = moments.mean, moments.covariance
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UsageError(f"{path} has statistics that are not finite. Compute them anew, or name another file.")
    return Reference(mu, sigma, rows if features else None, found.images, found.layout)


def write(path: Path, moments: Moments, features: np.ndarray | None, about: dict[str, Any]) -> None:
    """Statistics in both published layouts at once (``features`` (n, D): None leaves those out)."""
    arrays = {"mu": moments.mean, "sigma": moments.covariance, "about": np.array(json.dumps(about))}
    if features is not None:
        arrays[FEATURES] = features.astype(np.float32, copy=False)
    write_arrays(path, arrays)


def _identity(path: Path, found: Outline) -> str:
    # Ours are the same numbers however often they are computed; others are known by their bytes.
    return str(found.about.get("identity") or inputs.digest_of(path))


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return tuple(header(file)[0])


def _about(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as content:
        found = json.loads(str(content["about"]))
    return found if isinstance(found, dict) else {}
