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
    keys = {
        entry.name: getattr(spec, entry.name)
        for entry in dataclasses.fields(spec)
        if entry.name != "name"
    }
    made: Diffusion = implementation_of("sde", spec)(**keys)
    return made


def require_stationary(sde: Diffusion) -> None:
    """Check that the prior is the law that the dynamics leave as it is, which samples and bounds
    rely on.

    Raises:
        ValueError: A S + S A^T + D is not 0 for the covariance S of the prior, or a constant is of
            another shape.
    """
    n, m = sde.n, sde.m
    for name, wanted in {
        "A": (n, n),
        "D": (m,),
        "prior_std": (n,),
        "initial_std": (n - 1,),
    }.items():
        if (found := np.array(getattr(sde, name), dtype=object).shape) != wanted:
            raise ValueError(f"{name} is of shape {found}, not {wanted} (n is {n}, m is {m})")
    drift, covariance = np.array(sde.A), np.diag(np.square(sde.prior_std))
    diffusion = np.diag([*[0.0] * (n - m), *sde.D])
    if not np.allclose(drift @ covariance + covariance @ drift.T, -diffusion, rtol=1e-6, atol=1e-9):
        text = "prior_std is not that of the stationary law"
        raise ValueError(f"{text}: A S + S A^T + D is not 0 for the covariance S of the prior")
