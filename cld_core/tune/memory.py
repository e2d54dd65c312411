"""How much memory a fit takes, so that one that needs too much is refused before it begins."""

import os
from typing import TYPE_CHECKING

from cld_core.errors import UsageError
from cld_core.sde import Diffusion

from . import backwards, differences
from .linear import largest
from .request import LEAST_POINTS

if TYPE_CHECKING:
    import torch


def least_bytes(sde: Diffusion, nfe: int, points: int, numbers: int, *, eps: float, denoise: bool) -> int:
    """The least number of bytes that a linearisation holds.

    `differences.linearised` holds a copy of all points for each parameter before the last step,
    `backwards.linearised`, which takes some points at a time, only the derivatives.

    Args:
        numbers: coordinates of one example.
    """
    linear = largest(sde, nfe, eps, denoise)
    sizes = differences.sizes(linear, denoise)
    if backwards.suits(numbers):
        return 8 * sum(sizes) * points * numbers
    # Of the last step, only the copies that it makes are held.
    copies = 1 + sum(sizes[:-1])
    halves = 2 * sde.n + sde.m * max(map(len, linear.weights))
    return 8 * copies * halves * points * numbers


def require(needed: int, points: int, device: "torch.device") -> None:
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


def total(device: "torch.device") -> int:
    """The bytes of memory of a device."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
