"""Inception Score of samples, by torch-fidelity."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cld_core.evaluate.definitions import Metric, Quantity

from .common import SAME_FEATURES, remark, sampler

if TYPE_CHECKING:
    from cld_core.evaluate.joined import Joined


def _section(joined: "Joined") -> dict[str, Any]:
    import torch
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    from cld_core.evaluate.extractors import score_layer

    spec = joined.request.isc
    result = isc_features_to_metric(torch.from_numpy(joined.arrays["scores"]), splits=spec.splits)
    values = {"value": result[KEY_METRIC_ISC_MEAN], "std": result[KEY_METRIC_ISC_STD], **asdict(spec)}
    layer = score_layer(joined.inputs.extractor)
    return {**values, **joined.about_samples(), "layer": layer}


ISC = Metric(
    name="isc",
    help="Inception Score.",
    rows="features",
    reads=("scores",),
    depends=("isc",),
    same=(*SAME_FEATURES, "isc.splits"),
    least=("splits", 0),
    quantities=(Quantity(key="isc", label="Inception Score", larger_is_better=True),),
    section=_section,
    how=sampler,
    remark=remark,
)
