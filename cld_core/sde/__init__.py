"""The diffusions, and what they have in common (`base`)."""

import dataclasses

from cld_core.config.registry import implementation_of
from cld_core.config.sde import SdeSpec
from cld_core.errors import RecipeError
from cld_core.sde.base import Auxiliary, Diffusion, Law
from cld_core.sde.cld import CLD
from cld_core.sde.hold import HOLD
from cld_core.sde.linear import LinearDiffusion
from cld_core.sde.psld import PSLD
from cld_core.sde.schedule import Schedule
from cld_core.sde.vpsde import VPSDE

__all__ = ["CLD", "HOLD", "PSLD", "VPSDE", "Auxiliary", "Diffusion", "Law", "LinearDiffusion", "Schedule", "build"]


def build(spec: SdeSpec) -> Diffusion:
    """The diffusion that a recipe's `sde` section describes, made with the section's keys as keywords.

    Raises:
        RecipeError: the spec and its implementation disagree.
    """
    keys = {entry.name: getattr(spec, entry.name) for entry in dataclasses.fields(spec) if entry.name != "name"}
    made: Diffusion = implementation_of("sde", spec)(**keys)
    if made.splittable != spec.splittable:
        does = "defines" if made.splittable else "does not define"
        text = f"{type(spec).__name__}.splittable is {spec.splittable}, but {type(made).__name__} {does} `reverse`"
        raise RecipeError(f"sde {spec.name!r}: {text}. Correct one.")
    return made
