"""Fréchet distance between the features of samples and of training images (torch-fidelity's formula, in float64)."""

from typing import TYPE_CHECKING, Any

from cld_core.evaluate.definitions import Metric, Quantity

from .common import SAME_REFERENCE, remark, sampler

if TYPE_CHECKING:
    import numpy as np

    from cld_core.evaluate.joined import Joined
    from cld_core.evaluate.moments import Moments
    from cld_core.evaluate.stats_file import Reference


def frechet(moments: "Moments", reference: "Reference") -> float:
    """The Fréchet distance between samples and training set."""
    return _distance(moments, {"mu": reference.mu, "sigma": reference.sigma})


def frechet_of(ours: "np.ndarray", theirs: "np.ndarray") -> float:
    """The Fréchet distance between features (n, D) and (m, D)."""
    from cld_core.evaluate.moments import Moments

    reference = Moments.of(theirs)
    return _distance(Moments.of(ours), {"mu": reference.mean, "sigma": reference.covariance})


def _distance(moments: "Moments", theirs: "dict[str, np.ndarray]") -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    ours = {"mu": moments.mean, "sigma": moments.covariance}
    # For equal sets of few images, rounding makes the formula negative.
    return max(0.0, float(fid_statistics_to_metric(ours, theirs, verbose=False)[KEY_METRIC_FID]))


def _section(joined: "Joined") -> dict[str, Any]:
    from cld_core.evaluate.moments import Moments

    arrays = joined.arrays
    moments = Moments.from_arrays(arrays) if "scatter" in arrays else Moments.of(arrays["features"])
    return {"value": frechet(moments, joined.reference), **joined.about_samples(), **joined.about_reference()}


FID = Metric(
    name="fid",
    help="Fréchet Inception Distance to the training images.",
    rows="features",
    reads=("moments",),
    reference="moments",
    same=SAME_REFERENCE,
    quantities=(Quantity(key="fid", label="FID"),),
    section=_section,
    how=sampler,
    remark=remark,
)
