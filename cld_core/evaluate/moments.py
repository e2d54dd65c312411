"""Mean and scatter of features, in float64, that merge exactly."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

# Rows that are turned into float64 at once: 64 MiB of 2048 features.
_ROWS = 4096


@dataclass(frozen=True)
class Moments:
    """``n`` vectors of D features: their mean (D,) and their scatter (D, D), the sum of centred outer products."""

    FIELDS: ClassVar[tuple[str, ...]] = ("n", "mean", "scatter")

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Moments of features (n, D) of any float type."""
        assert len(features), "moments of nothing"
        return cls.merged(_block(features[first : first + _ROWS]) for first in range(0, len(features), _ROWS))

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

    def arrays(self) -> dict[str, np.ndarray]:
        """As a file holds them, by `FIELDS`."""
        return {"n": np.array(self.n), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Moments":
        return cls(int(arrays["n"]), arrays["mean"], arrays["scatter"])


def _block(features: np.ndarray) -> Moments:
    rows = features.astype(np.float64)
    mean = rows.mean(0)
    rows -= mean
    return Moments(len(rows), mean, rows.T @ rows)


def standard_error(values: np.ndarray) -> float | None:
    """The standard error of the mean of values (n,), in their unit; None for a single value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
