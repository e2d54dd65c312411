"""The readers under fuzz, by name."""

from . import data, recipes, tensors

TARGETS = {target.name: target for target in (recipes.TARGET, *data.TARGETS, *tensors.TARGETS)}
