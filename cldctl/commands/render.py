"""`cldctl render`: the resolved recipe."""

from typing import Annotated

import typer

from cldctl.ui.console import out

from .options import Overrides


def render(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file or name.")],
    overrides: Overrides = None,
) -> None:
    """Print the resolved YAML of a recipe.

    Example: cldctl render toy sde.beta0=2
    """
    from cld_core.recipe import dump, load
    from cldctl.lookup import find_recipe

    out.print(dump(load(find_recipe(recipe), overrides or []), frozen=False), end="", markup=False, soft_wrap=True)
