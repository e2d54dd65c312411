"""Root mean square distance of samples from the network's own probability flow from the same noise."""

import math
from typing import TYPE_CHECKING, Any

from cld_core.evaluate.definitions import Metric, Quantity

from .common import about_drawn, remark, sampler

if TYPE_CHECKING:
    from cld_core.evaluate.joined import Joined


def _section(joined: "Joined") -> dict[str, Any]:
    from cld_core.evaluate.moments import standard_error

    arrays, spec = joined.arrays, joined.request.flow
    square = arrays["square"][~arrays["nonfinite"]]
    value = math.sqrt(square.mean()) if len(square) else math.inf
    spread = standard_error(square)
    # Of the root, to first order.
    stderr = spread / (2.0 * value) if spread is not None and value > 0 else None
    return {
        "value": value,
        "stderr": stderr,
        **about_drawn(joined),
        "flow_nfe_mean": float(arrays["flow_nfe"].mean()),
        "rtol": spec.rtol,
        "atol": spec.atol,
    }


FLOW_DISTANCE = Metric(
    name="flow-distance",
    help="RMS distance from the network's own flow, for samplers without noise.",
    rows="flow",
    same=("seed", "samples", "flow"),
    quantities=(Quantity(key="flow_distance", label="distance from the flow", stderr="stderr", digits=4),),
    section=_section,
    how=sampler,
    remark=remark,
)
