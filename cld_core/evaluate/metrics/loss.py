"""The mean training objective of test points; the sum over dimensions, like the training loss."""

from typing import TYPE_CHECKING, Any

from cld_core.evaluate.definitions import Metric, Quantity

if TYPE_CHECKING:
    from cld_core.evaluate.joined import Joined


def _section(joined: "Joined") -> dict[str, Any]:
    from cld_core.evaluate.moments import standard_error

    losses, request = joined.arrays["loss"], joined.request
    return {
        "value": float(losses.mean()),
        "stderr": standard_error(losses),
        "n": len(losses),
        "draws": request.loss.draws,
        "objective": request.objective.name,
        "weighting": request.objective.weighting,
    }


LOSS = Metric(
    name="loss",
    help="Training objective on the test data.",
    rows="loss",
    same=("points", "seed", "objective"),
    quantities=(Quantity(key="loss", label="test loss", stderr="stderr"),),
    section=_section,
    how=lambda request: f"draws {request.loss.draws}",
)
