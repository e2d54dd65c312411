"""The diffusions, and what they have in common (`base`)."""

import dataclasses
from importlib import import_module
from typing import Any

from cld_core.sde.base import Auxiliary, Diffusion, Law
from cld_core.sde.cld import CLD
from cld_core.sde.schedule import Schedule
from cld_core.sde.vpsde import VPSDE

__all__ = ["CLD", "VPSDE", "Auxiliary", "Diffusion", "Law", "Schedule", "build"]

DIFFUSIONS = {"cld": "cld_core.sde.cld:CLD", "vpsde": "cld_core.sde.vpsde:VPSDE"}


def build(spec: Any) -> Diffusion:
    """The diffusion that a recipe's `sde` section describes, made with the section's keys as keywords."""
    module, _, name = DIFFUSIONS[spec.name].partition(":")
    made: Diffusion = getattr(import_module(module), name)(
        **{entry.name: getattr(spec, entry.name) for entry in dataclasses.fields(spec) if entry.name != "name"}
    )
    return made
