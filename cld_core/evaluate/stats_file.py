"""Statistics of a training set, and files of them: our own, and both layouts that others publish.

    mu (D,), sigma (D, D)      means and covariance of the features (EDM and many more)
    pool_3 (n, D)              the features themselves (score_sde, CLD-SGM)
    label (n,)                 beside our own features: the classes of the images, if any

`cldctl data stats` writes the first, with ``--features`` both, and ``about``, a JSON text about
their origin.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from cld_core import npz
from cld_core.config import Recipe
from cld_core.config.data import StoredDataSpec
from cld_core.data import store
from cld_core.digests import digest_of
from cld_core.errors import UsageError
from cld_core.files import opened, parse_json, write_arrays
from cld_core.records import from_plain
from cld_core.run.evaluations import EvalRequest, Extraction
from cld_core.sanitize import one_line

FEATURES = "pool_3"
LABELS = "label"
# Rows that are converted to float64 at once: 64 MiB of 2048 features.
_ROWS = 4096


def moments(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), float64, of features (n, D) that come in parts.

    The cuts change nothing. The scatter, the sum of centred outer products, is the scatter within
    blocks of rows plus that between the means of the blocks. The covariance has n - 1 in the
    denominator.
    """
    n = 0
    mean = np.zeros(())
    scatter = np.zeros(())
    for rows in _blocks(parts):
        own = rows.mean(0)
        rows -= own
        between = own - mean
        total = n + len(rows)
        scatter = scatter + rows.T @ rows
        scatter += np.outer(between, between * (n * len(rows) / total))
        mean = mean + between * (len(rows) / total)
        n = total
    return mean, scatter / (n - 1)


def _blocks(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The rows of all parts in float64, `_ROWS` at once."""
    left: list[np.ndarray] = []
    for part in parts:
        left.append(part)
        while sum(map(len, left)) >= _ROWS:
            rows = np.concatenate(left)
            yield rows[:_ROWS].astype(np.float64)
            left = [rows[_ROWS:]]
    if sum(map(len, left)):
        yield np.concatenate(left).astype(np.float64)


class StatsMetadata(TypedDict, total=False):
    """The origin of a file, beside the `Extraction`; empty for files that others publish."""

    identity: str
    images: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Outline:
    """The content of a statistics file without its numbers.

    Attributes:
        images: the number of images; None if unknown.
        features: the number of images whose features are in the file; None without features.
        classes: the names of the labels of the features.
    """

    dimensions: int
    images: int | None
    features: int | None
    about: StatsMetadata
    layout: str
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """Statistics of a training set.

    Attributes:
        mu: mean (D,), float64.
        sigma: covariance (D, D), float64.
        features: (n, D), if they were read.
        labels: (n,), indices of the outline's ``classes``, if the features have labels.
    """

    outline: Outline
    mu: np.ndarray
    sigma: np.ndarray
    features: np.ndarray | None
    labels: np.ndarray | None


def default_file(data: StoredDataSpec, extraction: Extraction) -> Path:
    """Where the statistics of a data set lie by default: beside the images."""
    fingerprint = extraction.fingerprint_of_stats(store.of(data).split("train").digest)
    path = Path(str(data.path))
    folder = path.parent if path.is_file() else path
    return folder / f"stats-{extraction.extractor}-{fingerprint[:8]}.npz"


def find(
    recipe: Recipe, extraction: Extraction, dimensions: int, flags: str, *, by_class: bool
) -> tuple[Path, str, int | None]:
    """The file of statistics for a recipe's evaluation, its fingerprint and number of features.

    Args:
        dimensions: the number of features of an image.
        flags: the metrics that need the features themselves, for messages; if empty, the number of
            features is None.
        by_class: the features need labels.

    Raises:
        UsageError: the file is missing, of another size or extractor, or lacks features or labels.
    """
    assert isinstance(recipe.data, StoredDataSpec), "statistics are of images"
    named_file = recipe.eval.fid.stats
    path = default_file(recipe.data, extraction) if named_file is None else Path(named_file)
    command = f"`cldctl data stats RECIPE|RUN{' --features' if flags else ''}`"

    def refusal(problem: str) -> UsageError:
        return UsageError(
            f"{path} {problem}. Compute statistics with {command}, or name a file in "
            f"eval.fid.stats."
        )

    if not path.is_file():
        if named_file is None:
            raise refusal("does not exist: there are no statistics of the training images")
        raise refusal("does not exist: eval.fid.stats names no file")
    content = outline(path)
    if content.dimensions != dimensions:
        raise refusal(
            f"has statistics of {content.dimensions} features, but {extraction.extractor}, layer "
            f"{extraction.layer}, has {dimensions}"
        )
    for name, ours in asdict(extraction).items():
        if content.about and content.about.get(name) != ours:
            raise refusal(
                f"was made with {name} {one_line(content.about.get(name), 80)}, not {ours}"
            )
    if flags and content.features is None:
        raise refusal(f"has no features of single images, which {flags} need")
    if by_class and not content.classes:
        raise refusal("does not know the classes of its images. Prepare the data again")
    if content.layout != FEATURES:
        # Reads some 30 MB, but finds a wrong number before samples are drawn.
        read(path)
    return path, fingerprint_of(path, content), content.features if flags else None


def outline(path: Path) -> Outline:
    """The outline of a statistics file; reads only its headers and origin.

    Raises:
        UsageError: the file is not a statistics file.
    """
    with _content(path) as content:
        return _outline(path, content)


def _outline(path: Path, content: np.lib.npyio.NpzFile) -> Outline:
    shapes = npz.shapes(content)
    about = StatsMetadata()
    if "about" in shapes:
        try:
            about = from_plain(StatsMetadata, parse_json(str(content["about"])))
        except ValueError as error:
            raise npz.DamagedError(
                f"what it says about its origin is damaged: {one_line(error)}"
            ) from error
    mu = shapes.get("mu", ())
    sigma = shapes.get("sigma", ())
    rows = shapes.get(FEATURES, ())
    features = rows[0] if len(rows) == 2 else None
    images = about.get("images", features)
    if len(mu) == 1 and mu[0] and sigma == (*mu, *mu):
        if not features:
            return Outline(mu[0], images, features, about, "mu, sigma")
        classes = about.get("classes", ()) if shapes.get(LABELS) == (features,) else ()
        return Outline(mu[0], images, features, about, f"mu, sigma, {FEATURES}", classes)
    if features is not None and features > 1 and rows[1]:
        return Outline(rows[1], images, features, about, FEATURES)
    names = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
    raise UsageError(
        f"{path} has neither mu and sigma nor {FEATURES}, but {one_line(names)}. "
        "Correct eval.fid.stats."
    )


def read(path: Path, *, features: bool = False) -> Reference:
    """The statistics in a file of any layout, with the features that the file has if requested.

    Raises:
        UsageError: it is not a statistics file, or has numbers that are not finite.
    """
    rows = None
    labels = None
    with _content(path) as content:
        content_outline = _outline(path, content)
        has_moments = content_outline.layout != FEATURES
        if content_outline.features and (features or not has_moments):
            rows = _real(path, content[FEATURES])
        if content_outline.classes and features:
            labels = content[LABELS]
        if has_moments:
            mu = _real(path, content["mu"]).astype(np.float64)
            sigma = _real(path, content["sigma"]).astype(np.float64)
        else:
            assert rows is not None, "an outline has mu and sigma or features"
            # Numbers that are not finite are refused below.
            with np.errstate(all="ignore"):
                mu, sigma = moments([rows])
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UsageError(
            f"{path} has statistics that are not finite. Compute them again, or name another file."
        )
    return Reference(content_outline, mu, sigma, rows if features else None, labels)


def _real(path: Path, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "iuf":
        raise UsageError(
            f"{path} has {values.dtype} in place of real numbers. Correct eval.fid.stats."
        )
    return values


def write(path: Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of statistics: ``about``, their origin, and ``arrays`` in one of the layouts."""
    write_arrays(path, {**arrays, "about": np.array(json.dumps(about))})


def fingerprint_of(path: Path, content: Outline) -> str:
    """A digest of the statistics in a file: of the origin of our own, or of the bytes of others."""
    return str(content.about.get("identity") or digest_of(path))


@contextlib.contextmanager
def _content(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        with opened(path, follow=True) as file, npz.arrays(file) as content:
            yield content
    except (OSError, npz.DamagedError) as error:
        raise UsageError(
            f"{path} is not an .npz file of statistics ({one_line(error)}). Correct eval.fid.stats."
        ) from error


def checked_stats_file(request: EvalRequest) -> Path:
    """The statistics file that an evaluation compares samples with, checked to be unchanged.

    Raises:
        UsageError: the file is missing or has changed.
    """
    assert request.inputs.stats is not None, "checked when the evaluation was requested"
    path = Path(str(request.files["stats"]))
    if not path.is_file():
        raise UsageError(f"{path} is gone since the evaluation was requested. Put it back.")
    if fingerprint_of(path, outline(path)) != request.inputs.stats:
        raise UsageError(
            f"{path} has changed since the evaluation was requested. Re-run the command."
        )
    return path
