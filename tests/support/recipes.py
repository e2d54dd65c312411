"""Recipes that come with the project, with overrides."""

from cld_core.config import load
from tests.support.paths import RECIPES


def shipped_recipe(name, *overrides):
    return load(RECIPES / f"{name}.yaml", overrides)


def toy_recipe(*overrides):
    return shipped_recipe("toy", *overrides)
