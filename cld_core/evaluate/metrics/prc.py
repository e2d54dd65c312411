"""Precision and recall of the features of samples against those of training images, by torch-fidelity."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cld_core.evaluate.definitions import Metric, Quantity

from .common import SAME_REFERENCE, both_features, remark, sampler

if TYPE_CHECKING:
    from torch import Tensor

    from cld_core.evaluate.joined import Joined


def precision_and_recall(ours: "Tensor", theirs: "Tensor", neighbours: int) -> tuple[float, float, float]:
    """Precision, recall and F score of features (n, D) of samples and (m, D) of training images."""
    from torch_fidelity.metric_prc import KEY_METRIC_F_SCORE, KEY_METRIC_PRECISION, KEY_METRIC_RECALL
    from torch_fidelity.metric_prc import prc_features_to_metric as to_metric

    # Not the form that holds all distances at once, which are 10 GB for 50,000 samples.
    result = to_metric(ours, theirs, prc_neighborhood=neighbours, save_cpu_ram=True, verbose=False)
    return result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL], result[KEY_METRIC_F_SCORE]


def _section(joined: "Joined") -> dict[str, Any]:
    spec = joined.request.prc
    results = precision_and_recall(*both_features(joined), spec.neighbours)
    values = {**dict(zip(("precision", "recall", "f_score"), results, strict=True)), **asdict(spec)}
    return {**values, **joined.about_samples(), **joined.about_reference()}


PRC = Metric(
    name="prc",
    help="Precision and recall.",
    rows="features",
    reads=("features",),
    reference="features",
    depends=("prc",),
    same=(*SAME_REFERENCE, "prc.neighbours"),
    least=("neighbours", 1),
    quantities=(
        Quantity(key="precision", field="precision", label="precision", larger_is_better=True),
        Quantity(key="recall", field="recall", label="recall", larger_is_better=True),
    ),
    section=_section,
    how=sampler,
    remark=remark,
)
