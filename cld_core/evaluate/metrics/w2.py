"""Sliced 2-Wasserstein distance of samples of toy data from as many true samples, and that of two true sets."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cld_core.evaluate.definitions import Metric, Quantity

from .common import about_drawn, finite, remark, sampler

if TYPE_CHECKING:
    from cld_core.evaluate.joined import Joined


def _section(joined: "Joined") -> dict[str, Any]:
    """The mean over the true sets, and the floor: the mean over the pairs of them.

    The true sets are the same for every request of as many samples, so that samplers are compared with the same points.
    """
    import torch

    from cld_core.evaluate.moments import standard_error
    from cld_core.evaluate.wasserstein import from_sets

    x, source, spec = finite(joined), joined.model.source, joined.request.w2
    value, floor = math.inf, {}
    if len(x):
        sets = [source.dequantised_test_data(number, 0, len(x)) for number in range(spec.sets)]
        value, between = from_sets(torch.from_numpy(x), sets, spec.directions)
        floor = {"floor": float(between.mean()), "floor_stderr": standard_error(between)}
    return {"value": value, **floor, **asdict(spec), **about_drawn(joined)}


W2 = Metric(
    name="w2",
    help="Sliced Wasserstein-2 distance from true samples (toy data).",
    rows="vectors",
    depends=("w2",),
    same=("samples", "w2"),
    quantities=(
        Quantity(key="w2", label="sliced W2", digits=4),
        Quantity(
            key="w2_floor",
            field="floor",
            stderr="floor_stderr",
            label="W2 of two true sets",
            digits=4,
            is_reference=True,
        ),
    ),
    section=_section,
    how=sampler,
    remark=remark,
)
