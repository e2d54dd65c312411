"""What is wrong with the files of a run that its state does not say."""

import os

from cld_core.run import RunFolder, code
from cld_core.texts import one_line


def damages(run: RunFolder) -> list[str]:
    """Damaged files, a line each. It reads the recipe, so nobody asks for many runs."""
    problems = []
    for file, content in ((run.progress_file, run.progress()), (run.identity_file, run.identity())):
        if file.exists() and not content:
            problems.append(f"{file.name} is damaged")
    problem = of_recipe(run)
    return problems if problem is None else [*problems, problem]


def of_recipe(run: RunFolder) -> str | None:
    """Why the recipe cannot be read, so that the run cannot continue; None if it can."""
    try:
        run.recipe()
    except Exception as error:
        text = one_line(error)
        return text if run.recipe_file.name in text else f"{run.recipe_file.name}: {text}"
    return None


def recipe_fix(run: RunFolder) -> str:
    """What to do about a damaged recipe."""
    copy = code.folder_of(run.path) / code.RECIPE
    return (
        f"restore recipe.yaml: {copy} is how it was submitted"
        if os.path.lexists(copy)
        else "restore recipe.yaml from a backup"
    )
