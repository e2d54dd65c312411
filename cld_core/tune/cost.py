"""How many evaluations of the network a tuning will take."""

from cld_core.sde import Diffusion

from . import backwards, differences
from .levenberg import TRIALS
from .request import TuneRequest
from .stages import STAGES

# Coordinates of a point, and so backward passes.
_PLANE = 2


def most(request: TuneRequest, sde: Diffusion, images: bool) -> int:
    """`evaluations` of a request; with guidance, each counts twice."""
    return request.networks * evaluations(sde, request.nfe, request.denoise, images)


def evaluations(sde: Diffusion, nfe: int, denoise: bool, images: bool, eps: float = 1e-3) -> int:
    """The most evaluations for each fitted point, without those of its flow. A fit usually takes half as many.

    A backward pass through the network counts as an evaluation.

    Args:
        images: whether examples are images, and not points in the plane.
    """
    sizes = differences.most_sizes(sde, nfe, eps, denoise)
    if images:  # A step evaluates as many copies as there are parameters before it.
        slopes = nfe + sum(sum(sizes[:number]) for number in range(nfe)) + nfe
    else:
        slopes = nfe * (1 + _PLANE + backwards.PER_TIME)
    judged, tried = 2 * nfe, TRIALS * nfe
    grid = (nfe - 1) * nfe + tried + judged
    coefficients = STAGES["fewer"] + STAGES["coefficients"]
    return STAGES["untuned"] * judged + STAGES["grid"] * grid + coefficients * (slopes + tried + judged)
