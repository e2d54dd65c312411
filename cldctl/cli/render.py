"""`cldctl render`: the resolved recipe."""

from typing import Annotated

import typer

from cldctl.show.console import out

from . import completing
from .options import Overrides


def render(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe file or name.", autocompletion=completing.recipes)
    ],
    overrides: Overrides = None,
    comments: Annotated[bool, typer.Option("--comments", help="Explain each key in a comment.")] = False,
) -> None:
    """Print the resolved YAML of a recipe.

    Example: cldctl render toy sde.beta0=2 --comments
    """
    from cld_core.recipe import dump, load
    from cld_core.recipe.commented import dump_with_comments
    from cldctl.lookup import find_recipe

    resolved = load(find_recipe(recipe), overrides or [])
    text = dump_with_comments(resolved) if comments else dump(resolved, frozen=False)
    out.print(text, end="", markup=False, no_wrap=True)
