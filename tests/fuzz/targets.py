"""The readers under fuzz, by name."""

from __future__ import annotations

from . import data, recipes, tensors
from .campaign import Target

TARGETS: dict[str, Target] = {target.name: target for target in (recipes.TARGET, *data.TARGETS, *tensors.TARGETS)}
