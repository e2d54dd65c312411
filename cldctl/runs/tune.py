"""Starting the tunings of a run that are missing, by one submission."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.config import Recipe
from cld_core.errors import UsageError
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.recipe import trusted_recipe
from cld_core.sanitize import one_line
from cld_core.tune.tuning import TuneRequest, Tuning
from cldctl import locks
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import SchedulerAway, SchedulerRefused
from cldctl.evals.plan import recipe_for_evaluation, require_average
from cldctl.jobs import specs

from . import cluster_choice, sharded
from .evaluate import Outcome, steps_of
from .options import Say
from .status import work_state

# The keys of these sections that have an effect.
_READ = (
    *("sampling.eps", "sampling.denoise", "sampling.guidance", "sampling.guidance_from", "sampling.guidance_to"),
    "eval.batch_size",
)


@dataclass(frozen=True)
class Tunings:
    """Tunings that a run should have, and where those that are missing are computed."""

    run: RunFolder
    recipe: Recipe
    requests: tuple[TuneRequest, ...]
    cluster: Cluster

    @property
    def folders(self) -> list[Path]:
        return [self.run.tuned / request.id for request in self.requests]


def plan(
    run: RunFolder,
    overrides: Sequence[str],
    *,
    nfe: Sequence[int],
    points: int | None,
    budget_min: float | None,
    seed: int,
    checkpoint: str,
    cluster: str | None,
    allow_plugin: bool,
    say: Say,
) -> Tunings:
    """The requested tunings, to an intact checkpoint of a run. Writes nothing.

    Args:
        nfe: numbers of network evaluations, of which each is a tuning; one starts from the next smaller one.
        points: draws of the noise to fit to; None for the default of such data.
        budget_min: minutes for each fit; None for no limit.
        checkpoint: "last" or a step.
        cluster: None for the run's own.

    Raises:
        CldError: the run belongs to somebody else.
        UsageError: a key has no effect on a tuning, or the plug-in of the run may not be run.
        NotFoundError: there is no such checkpoint.
    """
    require_may_change(run.path, "Nothing was tuned")
    for text in overrides:
        key = text.partition("=")[0]
        if key.startswith(("sampling.", "eval.")) and key not in _READ:
            raise UsageError(f"'{key}' has no effect on a tuning. Leave it out; there are: {', '.join(_READ)}.")
    recipe = trusted_recipe(run, allow_plugin=allow_plugin)
    recipe = recipe_for_evaluation(recipe, overrides, str(run.recipe_file))
    if checkpoint == "all":
        raise UsageError("--checkpoint all: a sampler is tuned to one network. Use 'last' or a step.")
    (step,) = steps_of(run, checkpoint, say, "tuning to")
    require_average(run, step, recipe.ema.length)
    requests = (
        TuneRequest.of(recipe, step, one, points=points, budget_min=budget_min, seed=seed) for one in sorted(nfe)
    )
    return Tunings(run, recipe, tuple(requests), cluster_choice.chosen(cluster, run))


def start(planned: Tunings, say: Say = lambda text: None) -> Outcome:
    """Start those that are neither complete nor being computed.

    Raises:
        RecipeError: the cluster has no such jobs.
        SchedulerRefused, SchedulerAway: nothing was started, and what was made for it is removed again.
    """
    run, cluster, size = planned.run, planned.cluster, planned.recipe.cluster
    folders = planned.folders
    with locks.only_one(run.path, cluster):
        fresh = [folder for folder in folders if not folder.exists()]
        cluster.check(specs.sharded(folders[:1], size, cluster, run=run))
        works = [Tuning(one.store(folder)) for one, folder in zip(planned.requests, folders, strict=True)]
        answers = sharded.ask_about(work for work in works if not work.is_done)
        states = {work.name: work_state(work, answers) for work in works}
        missing = [work for work in works if states[work.name] == "STOPPED"]
        try:
            job = sharded.start(missing, cluster, size, run=run, together=True, say=say) if missing else None
        except (SchedulerRefused, SchedulerAway):
            for folder in fresh:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    return Outcome(
        complete=tuple(name for name, state in states.items() if state == "FINISHED"),
        running=tuple(name for name, state in states.items() if state in ("RUNNING", "PENDING")),
        started=tuple(work.name for work in missing),
        job=job,
    )


def minutes(text: str) -> float | None:
    """The minutes of ``--budget``; None for no limit.

    Raises:
        UsageError: it is not a number of them.
    """
    try:
        return None if text.strip() == "none" else float(text)
    except ValueError:
        fix = "Write a number of them, or none to set no limit"
        raise UsageError(f"--budget {one_line(text)}: that is not a number of minutes. {fix}.") from None
