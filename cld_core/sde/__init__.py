"""The diffusions, and what they have in common (`base`)."""

import dataclasses

from cld_core.config.registry import implementation_of
from cld_core.config.sde import SdeSpec
from cld_core.sde.base import Diffusion, Schedule
from cld_core.sde.diffusions import CLD, HOLD, PSLD, VPSDE

__all__ = ["CLD", "HOLD", "PSLD", "VPSDE", "Diffusion", "Schedule", "build"]


def build(spec: SdeSpec) -> Diffusion:
    """The diffusion that a recipe's `sde` section describes, made with the section's keys as keywords."""
    keys = {entry.name: getattr(spec, entry.name) for entry in dataclasses.fields(spec) if entry.name != "name"}
    made: Diffusion = implementation_of("sde", spec)(**keys)
    return made
