"""The evaluations of a run, as sharded work."""

from cld_core.errors import NotFoundError
from cld_core.recipe import Recipe
from cld_core.run import RunFolder
from cld_core.shards import Work, open_work


def evaluations_of(run: RunFolder) -> list[Work]:
    """The evaluations of a run, oldest first; those that another version of cldctl requested are skipped."""
    requests = sorted(run.evals.glob("*/request.json"), key=lambda file: file.stat().st_mtime)
    works = []
    for file in requests:
        try:
            works.append(open_work(file.parent))
        except NotFoundError:
            continue
    return works


def chained(run: RunFolder, recipe: Recipe) -> list[Work]:
    """Evaluations of the run's last step, which wait for the training to finish."""
    return [
        work
        for work in evaluations_of(run)
        if getattr(work.request, "checkpoint_step", None) == recipe.train.steps and not work.is_done
    ]
