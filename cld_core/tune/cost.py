"""What a tuning takes: evaluations of the network, and memory, so that one that needs too much is refused at once."""

import os

import torch

from cld_core.errors import UsageError
from cld_core.sde import Diffusion

from .derivatives import PER_TIME, backpropagates
from .fit import TRIALS
from .linear import largest, sizes
from .tuning import LEAST_POINTS, STAGES, TuneRequest

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
    each = sizes(largest(sde, nfe, eps, denoise), denoise)
    # By copies, a step evaluates as many of them as there are parameters before it.
    copies = sum(sum(each[:number]) for number in range(nfe))
    slopes = nfe + copies + nfe if images else nfe * (1 + _PLANE + PER_TIME)
    judged, tried = 2 * nfe, TRIALS * nfe
    grid = (nfe - 1) * nfe + tried + judged
    coefficients = STAGES["fewer"] + STAGES["coefficients"]
    return STAGES["untuned"] * judged + STAGES["grid"] * grid + coefficients * (slopes + tried + judged)


def least_bytes(sde: Diffusion, nfe: int, points: int, numbers: int, *, eps: float, denoise: bool) -> int:
    """The least number of bytes that a linearisation holds.

    `derivatives.by_copies` holds a copy of all points for each parameter before the last step,
    `derivatives.by_backpropagation`, which takes some points at a time, only the derivatives.

    Args:
        numbers: coordinates of one example.
    """
    linear = largest(sde, nfe, eps, denoise)
    each = sizes(linear, denoise)
    if backpropagates(numbers):
        return 8 * sum(each) * points * numbers
    # Of the last step, only the copies that it makes are held.
    copies = 1 + sum(each[:-1])
    halves = 2 * sde.n + sde.m * max(map(len, linear.weights))
    return 8 * copies * halves * points * numbers


def require(needed: int, points: int, device: torch.device) -> None:
    """Refuse a fit that takes more than all the memory of a device.

    Raises:
        UsageError: names the bytes, and the number of points that would fit.
    """
    there = total(device)
    if needed <= there:
        return
    fitting = points * there // needed
    fix = "Ask for fewer evaluations"
    if fitting >= LEAST_POINTS:
        fix = f"Tune with --points {fitting} or fewer, or for fewer evaluations"
    text = f"the fit takes at least {needed:,} bytes of memory with --points {points}, and there are {there:,}"
    raise UsageError(f"{text}. {fix}.")


def total(device: torch.device) -> int:
    """The bytes of memory of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
