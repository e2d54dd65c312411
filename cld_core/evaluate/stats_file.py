"""Statistics of a training set, as files: our own, and both layouts that others publish.

    mu (D,), sigma (D, D)      means and covariance of the features (EDM and many more)
    pool_3 (n, D)              the features themselves (score_sde, CLD-SGM)
    label (n,)                 beside our own features: the classes of the images, if they have some

`cldctl data stats` writes the first, with ``--features`` both, and ``about``, a JSON text that says what they were made
from.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cld_core import npz
from cld_core.classes import Classes
from cld_core.codec import from_plain
from cld_core.config import Recipe
from cld_core.config.data import ImageDataSpec
from cld_core.data import store
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.files import parse_json, write_arrays
from cld_core.sanitize import one_line

from .feature_inputs import Extraction
from .moments import Moments

FEATURES = "pool_3"
LABELS = "label"
_ARRAYS = ("mu", "sigma", FEATURES)
# Of an image. A covariance of more takes gigabytes; Inception has 2048.
_MOST_DIMENSIONS = 8192


@dataclass(frozen=True)
class Outline:
    """What a statistics file holds, without its numbers; ``classes``: of the labels of its features."""

    dimensions: int
    images: int | None
    features: int | None
    about: dict[str, Any]
    layout: str
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """Statistics of a training set: mean (D,) and covariance (D, D), float64; features (n, D) if it has any.

    With features, ``labels`` (n,) are the indices of their ``classes``, if the images have some.
    """

    mu: np.ndarray
    sigma: np.ndarray
    features: np.ndarray | None
    images: int | None
    layout: str
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()


def default_file(data: ImageDataSpec, extraction: Extraction) -> Path:
    """Where the statistics of a data set lie by default: beside the images."""
    fingerprint = extraction.fingerprint_of_stats(store.split_of(data, "train").digest)
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
            text = f"was made with {name} {one_line(theirs, 80)}, not {ours}"
            raise UsageError(f"{path} {text}. Compute statistics with {command}.")
    if flags and content.features is None:
        text = f"has no features of single images, which {flags} need"
        raise UsageError(f"{path} {text}. Compute them with {command}.")
    if content.layout != FEATURES:
        read(path)  # Some 30 MB, and a wrong number in them would be noticed after all samples were drawn.
    return path, _fingerprint(path, content), content.features if flags else None


def require_classes(path: Path) -> None:
    """Pass if the features in a file have labels.

    Raises:
        UsageError: they do not.
    """
    if not outline(path).classes:
        fix = "Prepare the data again, then compute them with `cldctl data stats RECIPE|RUN --features`"
        raise UsageError(f"{path} does not know the classes of its images. {fix}.")


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
    with _content(path) as content:
        return _outline(path, content)


def _outline(path: Path, content: np.lib.npyio.NpzFile) -> Outline:
    outlines = npz.outlines(content)
    shapes = {name: shape for name, (shape, _) in outlines.items()}
    about = _about(content, *outlines["about"]) if "about" in shapes else {}
    mu, sigma, rows = (shapes.get(name, ()) for name in _ARRAYS)
    features = rows[0] if len(rows) == 2 else None
    for name in set(_ARRAYS).intersection(shapes):
        if outlines[name][1].kind not in "iuf":
            raise npz.DamagedError(f"its {name} are not numbers")
        if max(shapes[name][-1:], default=0) > _MOST_DIMENSIONS:
            raise npz.DamagedError(f"it has {shapes[name][-1]} features, more than {_MOST_DIMENSIONS}")
    if len(mu) == 1 and mu[0] and sigma == (*mu, *mu):
        layout = f"mu, sigma, {FEATURES}" if features else "mu, sigma"
        classes = _classes(about) if features and shapes.get(LABELS) == (features,) else ()
        return Outline(mu[0], _images(about, features), features, about, layout, classes)
    if features is not None and features > 1 and rows[1]:
        return Outline(rows[1], features, features, about, FEATURES)
    names = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
    text = f"has neither mu and sigma nor {FEATURES}, but {one_line(names)}"
    raise UsageError(f"{path} {text}. Correct eval.fid.stats.")


def read(path: Path, *, features: bool = False) -> Reference:
    """The statistics in a file of any layout; with ``features`` also those.

    Raises:
        UsageError: it is not such a file, or has numbers that are not finite.
    """
    with _content(path) as content:
        shapes = _outline(path, content)
        has_moments = shapes.layout != FEATURES
        labels = content[LABELS] if shapes.classes and features else None
        rows = content[FEATURES] if shapes.features and (features or not has_moments) else None
        if has_moments:
            mu, sigma = (content[name].astype(np.float64) for name in ("mu", "sigma"))
        else:
            assert rows is not None, "an outline has mu and sigma or features"
            # What is not finite is refused below.
            with np.errstate(all="ignore"):
                moments = Moments.of(rows)
                mu, sigma = moments.mean, moments.covariance
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UsageError(f"{path} has statistics that are not finite. Compute them again, or name another file.")
    return Reference(mu, sigma, rows if features else None, shapes.images, shapes.layout, labels, shapes.classes)


def write(
    path: Path,
    moments: Moments,
    features: np.ndarray | None,
    about: dict[str, Any],
    labels: np.ndarray | None = None,
) -> None:
    """Write mu and sigma, and the features (n, D) as well if given, and with them the labels (n,) of their images."""
    arrays = {"mu": moments.mean, "sigma": moments.covariance, "about": np.array(json.dumps(about))}
    if features is not None:
        arrays[FEATURES] = features.astype(np.float32, copy=False)
        if labels is not None:
            arrays[LABELS] = labels
    write_arrays(path, arrays)


def _fingerprint(path: Path, content: Outline) -> str:
    # Ours are the same numbers however often they are computed; others are known by their bytes.
    return str(content.about.get("identity") or digest_of(path))


@contextlib.contextmanager
def _content(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        with npz.arrays(path) as content:
            yield content
    except (OSError, npz.DamagedError) as error:
        text = f"is not an .npz file of statistics ({one_line(error)})"
        raise UsageError(f"{path} {text}. Correct eval.fid.stats.") from error


def _about(content: np.lib.npyio.NpzFile, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> dict[str, Any]:
    if dtype.kind != "U" or shape:
        raise npz.DamagedError("what it says about its origin is not a short text")
    try:
        about = parse_json(str(content["about"]))
    except ValueError as error:
        raise npz.DamagedError(f"what it says about its origin is not JSON: {one_line(error)}") from error
    return about if isinstance(about, dict) else {}


def _classes(about: dict[str, Any]) -> tuple[str, ...]:
    names = about.get("classes", [])
    try:
        return from_plain(Classes, {"names": names, "weights": [1] * len(names)}).names if names else ()
    except (ValueError, TypeError) as error:
        raise npz.DamagedError(f"the names of its classes are damaged: {one_line(error)}") from error


def _images(about: dict[str, Any], features: int | None) -> int | None:
    images = about.get("images", features)
    return images if isinstance(images, int) and not isinstance(images, bool) else None
