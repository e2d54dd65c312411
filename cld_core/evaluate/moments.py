"""Mean and scatter of features, in float64, that merge exactly."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

# Rows that are turned into float64 at once: 64 MiB of 2048 features.
_ROWS = 4096


@dataclass(frozen=True)
class Moments:
    """``n`` vectors of D features: their mean (D,) and their scatter (D, D), the sum of centred outer products."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Moments of features (n, D) of any float type."""
        assert len(features), "moments of nothing"
        return cls.of_parts([features])

    @classmethod
    def of_parts(cls, parts: Iterable[np.ndarray]) -> "Moments":
        """Moments of features (n, D) in parts, as if they were one array: how they are cut changes nothing."""
        return cls.merged(map(_block, _blocks(parts)))

    @classmethod
    def merged(cls, parts: "Iterable[Moments]") -> "Moments":
        """Moments of all parts together. The order of the parts changes only rounding.

        The scatter of the whole is the sum of those within the parts, and that of their means between them.
        """
        counts, means = [], []
        scatter: np.ndarray | None = None
        for part in parts:
            counts.append(part.n)
            means.append(part.mean)
            # The first sum is a new array, into which all others go.
            if len(counts) <= 2:
                scatter = part.scatter if scatter is None else scatter + part.scatter
            else:
                scatter += part.scatter
        assert scatter is not None, "moments of nothing"
        if len(counts) == 1:
            return cls(counts[0], means[0], scatter)
        n = np.array(counts, dtype=np.float64)
        mean = n @ np.stack(means) / n.sum()
        between = np.sqrt(n)[:, None] * (np.stack(means) - mean)
        return cls(sum(counts), mean, scatter + between.T @ between)

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), with n - 1 in the denominator."""
        return self.scatter / (self.n - 1)


def _blocks(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows, `_ROWS` at once."""
    left: list[np.ndarray] = []
    for part in parts:
        left.append(part)
        while sum(map(len, left)) >= _ROWS:
            rows = np.concatenate(left)
            yield rows[:_ROWS]
            left = [rows[_ROWS:]]
    if sum(map(len, left)):
        yield np.concatenate(left)


def _block(features: np.ndarray) -> Moments:
    rows = features.astype(np.float64)
    mean = rows.mean(0)
    rows -= mean
    return Moments(len(rows), mean, rows.T @ rows)


def standard_error(values: np.ndarray) -> float | None:
    """The standard error of the mean of values (n,), in their unit; None for a single value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
