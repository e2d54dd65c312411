"""What the authors report for the shipped recipes: numbers to compare with. docs/reproducing.md has the protocol."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A number of arXiv 2112.07068, or of the paper that ``how`` names.

    Attributes:
        bound: the published number is only known to be at most this.
        how: the sampler or the estimator.
    """

    value: float
    how: str
    bound: bool = False


# By the name of the recipe and the key of the quantity.
_VALUES = {
    "cifar10": {
        "fid": Published(2.25, "probability flow, 312 NFE, 50,000 samples"),
        "bpd": Published(3.31, "bound", bound=True),
    },
    "cifar10_psld": {"fid": Published(2.10, "arXiv 2303.01748, probability flow, 246 NFE, 50,000 samples")},
}


def published(recipe: str, key: str) -> Published | None:
    """What is published for a recipe and the `key` of a `Quantity`; None if nothing is."""
    return _VALUES.get(recipe, {}).get(key)
