"""The evaluations of a run, as sharded work."""

import contextlib

from cld_core.errors import NotFoundError
from cld_core.evaluation import reports
from cld_core.evaluation.evaluation import Evaluation
from cld_core.recipe import Recipe
from cld_core.run import RunFolder


def evaluations_of(run: RunFolder) -> list[Evaluation]:
    """The evaluations of a run, oldest first; those that another version of cldctl requested are skipped."""
    works = []
    for folder in reports.evaluations_of(run):
        with contextlib.suppress(NotFoundError):
            works.append(Evaluation(folder))
    return works


def chained(run: RunFolder, recipe: Recipe) -> list[Evaluation]:
    """Evaluations of the run's last step that have no result yet: they wait for the training to finish."""
    steps = recipe.train.steps
    return [work for work in evaluations_of(run) if work.request.checkpoint_step == steps and not work.is_done]
