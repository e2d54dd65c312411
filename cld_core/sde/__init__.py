"""The diffusions, and what they have in common (`base`)."""

import dataclasses

import numpy as np

from cld_core.config.registry import implementation_of
from cld_core.config.sde import SdeSpec
from cld_core.sde.base import Diffusion, Schedule
from cld_core.sde.diffusions import CLD, HOLD, PSLD, VPSDE

__all__ = ["CLD", "HOLD", "PSLD", "VPSDE", "Diffusion", "Schedule", "build", "require_stationary"]


def build(spec: SdeSpec) -> Diffusion:
    """The diffusion that a recipe's `sde` section describes, made with the section's keys as
    keywords."""
    keys = {entry.name: getattr(spec, entry.name) for entry in dataclasses.fields(spec)}
    del keys["name"]
    made: Diffusion = implementation_of("sde", spec)(**keys)
    return made


def require_stationary(sde: Diffusion) -> None:
    """Check that the dynamics keep the prior, which samples and bounds rely on.

    Raises:
        ValueError: A S + S A^T + D is not 0 for the covariance S of the prior, or a constant has
            another shape.
    """
    n = sde.n
    m = sde.m
    shapes = {"A": (n, n), "D": (m,), "prior_std": (n,), "initial_std": (n - 1,)}
    for name, shape in shapes.items():
        if (actual := np.array(getattr(sde, name), dtype=object).shape) != shape:
            raise ValueError(f"{name} is of shape {actual}, not {shape} (n is {n}, m is {m})")
    flux = np.array(sde.A) @ np.diag(np.square(sde.prior_std))
    diffusion = np.diag([*[0.0] * (n - m), *sde.D])
    if not np.allclose(flux + flux.T, -diffusion, rtol=1e-6, atol=1e-9):
        raise ValueError(
            "prior_std is not that of the stationary law: A S + S A^T + D is not 0 for the "
            "covariance S of the prior"
        )
