"""Kernel distance between the features of samples and of training images, by torch-fidelity."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cld_core.evaluate.definitions import Metric, Quantity

from .common import SAME_REFERENCE, both_features, remark, sampler

if TYPE_CHECKING:
    from cld_core.evaluate.joined import Joined


def _section(joined: "Joined") -> dict[str, Any]:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    spec = joined.request.kid
    settings = {"kid_subsets": spec.subsets, "kid_subset_size": spec.subset_size}
    result = kid_features_to_metric(*both_features(joined), verbose=False, **settings)
    values = {"value": result[KEY_METRIC_KID_MEAN], "std": result[KEY_METRIC_KID_STD], **asdict(spec)}
    return {**values, **joined.about_samples(), **joined.about_reference()}


KID = Metric(
    name="kid",
    help="Kernel Inception Distance to the training images.",
    rows="features",
    reads=("features",),
    reference="features",
    depends=("kid",),
    same=(*SAME_REFERENCE, "kid.subsets", "kid.subset_size"),
    least=("subset_size", 0),
    quantities=(Quantity(key="kid", label="KID", digits=5),),
    section=_section,
    how=sampler,
    remark=remark,
)
