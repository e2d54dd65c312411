"""Published numbers for the shipped recipes and their data. Loads no torch.

docs/reproducing.md has the protocol.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A number of arXiv 2112.07068, or of the paper that ``how`` names.

    Attributes:
        how: the sampler or the estimator.
        bound: the number is an upper bound.
    """

    value: float
    how: str
    bound: bool = False


@dataclass(frozen=True)
class PublishedSampler:
    """The published FID of a model's samples, which was not measured with this code.

    Attributes:
        nfe: network evaluations of a sample; None if the source does not say.
        source: where it is published.
    """

    model: str
    sampler: str
    nfe: int | None
    fid: float
    source: str


# By the name of the recipe and the key of the quantity.
_VALUES = {
    "cifar10": {
        "fid": Published(2.25, "probability flow, 312 NFE, 50,000 samples"),
        "bpd": Published(3.31, "bound", bound=True),
    },
    "cifar10_psld": {
        "fid": Published(2.10, "arXiv 2303.01748, probability flow, 246 NFE, 50,000 samples")
    },
}
_CLD = "arXiv 2112.07068"
_GDDIM = "arXiv 2206.05564"
_PSLD = "arXiv 2303.01748"
_SPLITTING = "arXiv 2310.07894"
_CONJUGATE = "arXiv 2402.07211"
_HOLD = "arXiv 2404.12814"
_EDM = "arXiv 2206.00364"
_AGM = "README of the code of AGM"
# By `data.name`, from abstracts, READMEs and tables of the sources.
_SAMPLERS = {
    "cifar10": (
        PublishedSampler("CLD", "adaptive flow", 312, 2.25, _CLD),
        PublishedSampler("CLD", "adaptive flow", 147, 2.71, _CLD),
        PublishedSampler("CLD", "EM, quadratic", 150, 7.00, _CLD),
        PublishedSampler("CLD", "EM, quadratic", 1000, 2.27, _CLD),
        PublishedSampler("CLD", "SSCS, quadratic", 50, 20.5, _CLD),
        PublishedSampler("CLD", "SSCS, quadratic", 150, 3.07, _CLD),
        PublishedSampler("CLD, both noises predicted", "gDDIM", 10, 13.41, _GDDIM),
        PublishedSampler("CLD, both noises predicted", "gDDIM", 20, 3.39, _GDDIM),
        PublishedSampler("CLD, both noises predicted", "gDDIM", 27, 2.86, _GDDIM),
        PublishedSampler("CLD, both noises predicted", "gDDIM", 50, 2.26, _GDDIM),
        PublishedSampler("PSLD", "adaptive flow", 246, 2.10, _PSLD),
        PublishedSampler("PSLD", "adaptive flow", 159, 2.13, _PSLD),
        PublishedSampler("PSLD", "reverse SDE", 1000, 2.21, _PSLD),
        PublishedSampler("PSLD", "conjugate splitting", 100, 2.11, f"{_SPLITTING}, {_CONJUGATE}"),
        PublishedSampler("PSLD", "stochastic splitting", 100, 2.36, f"{_SPLITTING}, {_CONJUGATE}"),
        PublishedSampler("AGM", "phase-space bridge", 5, 11.88, _AGM),
        PublishedSampler("AGM", "phase-space bridge", 10, 4.54, _AGM),
        PublishedSampler("AGM", "phase-space bridge", 20, 2.58, _AGM),
        PublishedSampler("HOLD (third order)", "not stated", None, 1.85, _HOLD),
        PublishedSampler("EDM (no phase space)", "unconditional", 35, 1.97, _EDM),
        PublishedSampler("EDM (no phase space)", "conditional", None, 1.79, _EDM),
    ),
}


def published(recipe: str, key: str) -> Published | None:
    """The number published for a recipe and the `key` of a `Quantity`; None if there is none."""
    return _VALUES.get(recipe, {}).get(key)


def published_samplers(data: str) -> tuple[PublishedSampler, ...]:
    """The published FIDs for a `data.name`; empty if there are none."""
    return _SAMPLERS.get(data, ())
