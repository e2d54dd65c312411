"""Statistics of a training set, as files: our own, and both layouts that others publish.

    mu (D,), sigma (D, D)      means and covariance of the features (EDM and many more)
    pool_3 (n, D)              the features themselves (score_sde, CLD-SGM)

`cldctl data stats` writes the first, with ``--features`` both, and ``about``, a JSON text that says what they were made
from.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cld_core.data import presence
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.recipe import Recipe
from cld_core.recipe.data import ImageDataSpec
from cld_core.run.atomic import write_arrays

from .feature_inputs import Extraction
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
    """Statistics of a training set: mean (D,) and covariance (D, D), float64; features (n, D) if it has any."""

    mu: np.ndarray
    sigma: np.ndarray
    features: np.ndarray | None
    images: int | None
    layout: str


def default_file(data: ImageDataSpec, extraction: Extraction) -> Path:
    """Where the statistics of a data set lie by default: beside the images."""
    fingerprint = extraction.fingerprint_of_stats(presence.fingerprint(data, "train"))
    return Path(data.path) / f"stats-{extraction.extractor}-{fingerprint[:8]}.npz"


def find(recipe: Recipe, extraction: Extraction, dimensions: int, flags: str = "") -> tuple[Path, str, int | None]:
    """The statistics that a recipe's evaluation compares with, their fingerprint and number of features.

    Args:
        dimensions: how many features the extractor has.
        flags: the metrics that need the features themselves, for messages; the number is None if this is empty.

    Raises:
        UsageError: they are missing, of another size, of another extractor, or without features.
    """
    assert isinstance(recipe.data, ImageDataSpec), "statistics are of images"
    given = recipe.eval.fid.stats
    path = default_file(recipe.data, extraction) if given is None else Path(given)
    command = f"`cldctl data stats RECIPE|RUN{' --features' if flags else ''}`"
    if not path.is_file():
        problem = (
            "there are no statistics of the training images" if given is None else "'eval.fid.stats' names no file"
        )
        raise UsageError(
            f"{problem}: {path} is missing. Compute them with {command}, or name a file in eval.fid.stats."
        )
    content = outline(path)
    if content.dimensions != dimensions:
        own = f"{extraction.extractor}, layer {extraction.layer}, has {dimensions}"
        raise UsageError(
            f"{path} has statistics of {content.dimensions} features, but {own}. Compute them with {command}."
        )
    for name in ("extractor", "layer", "weights", "plugin"):
        theirs, ours = content.about.get(name), getattr(extraction, name)
        if content.about and theirs != ours:
            raise UsageError(f"{path} was made with {name} {theirs}, not {ours}. Compute statistics with {command}.")
    if flags and content.features is None:
        text = f"has no features of single images, which {flags} need"
        raise UsageError(f"{path} {text}. Compute them with {command}.")
    if content.layout != FEATURES:
        read(path)  # Some 30 MB, and a wrong number in them would be noticed after all samples were drawn.
    return path, _fingerprint(path, content), content.features if flags else None


def require_unchanged(path: Path, fingerprint: str) -> None:
    """Pass if the statistics in a file are those that an evaluation was asked for with.

    Raises:
        UsageError: they are gone, or others.
    """
    if not path.is_file():
        raise UsageError(f"{path}: the statistics are gone since the evaluation was asked for. Put them back.")
    if _fingerprint(path, outline(path)) != fingerprint:
        raise UsageError(f"{path}: other statistics than when the evaluation was asked for. Re-run the command.")


def outline(path: Path) -> Outline:
    """Shapes and origin of a statistics file; reads only its headers.

    Raises:
        UsageError: it is not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {name.removesuffix(".npy"): _shape(archive, name) for name in archive.namelist()}
        about = _about(path) if "about" in shapes else {}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not an .npz file of statistics ({error}). Correct eval.fid.stats.") from error
    mu, sigma, rows = shapes.get("mu", ()), shapes.get("sigma", ()), shapes.get(FEATURES, ())
    features = rows[0] if len(rows) == 2 else None
    if len(mu) == 1 and sigma == (*mu, *mu):
        layout = f"mu, sigma, {FEATURES}" if features else "mu, sigma"
        return Outline(mu[0], about.get("images", features), features, about, layout)
    if features is not None:
        return Outline(rows[1], features, features, about, FEATURES)
    names = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
    raise UsageError(f"{path} has neither mu and sigma nor {FEATURES}, but {names}. Correct eval.fid.stats.")


def read(path: Path, *, features: bool = False) -> Reference:
    """The statistics in a file of any layout; with ``features`` also those.

    Raises:
        UsageError: it is not such a file, or has numbers that are not finite.
    """
    shapes = outline(path)
    with np.load(path, allow_pickle=False) as content:
        rows = content[FEATURES] if FEATURES in content and (features or "mu" not in content) else None
        if "mu" in content:
            mu, sigma = content["mu"].astype(np.float64), content["sigma"].astype(np.float64)
        else:
            assert rows is not None, "an outline has mu and sigma or features"
            moments = Moments.of(rows)
            mu, sigma = moments.mean, moments.covariance
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UsageError(f"{path} has statistics that are not finite. Compute them again, or name another file.")
    return Reference(mu, sigma, rows if features else None, shapes.images, shapes.layout)


def write(path: Path, moments: Moments, features: np.ndarray | None, about: dict[str, Any]) -> None:
    """Write mu and sigma, and the features (n, D) as well if given."""
    arrays = {"mu": moments.mean, "sigma": moments.covariance, "about": np.array(json.dumps(about))}
    if features is not None:
        arrays[FEATURES] = features.astype(np.float32, copy=False)
    write_arrays(path, arrays)


def _fingerprint(path: Path, content: Outline) -> str:
    # Ours are the same numbers however often they are computed; others are known by their bytes.
    return str(content.about.get("identity") or digest_of(path))


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return tuple(header(file)[0])


def _about(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as content:
        about = json.loads(str(content["about"]))
    return about if isinstance(about, dict) else {}
