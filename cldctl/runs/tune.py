"""Starting the tunings of a run that are missing, by one submission."""

import shutil
from collections.abc import Callable, Sequence

from cld_core.errors import UsageError
from cld_core.recipe import Recipe
from cld_core.recipe.cluster import ClusterSpec
from cld_core.run import RunFolder, changes
from cld_core.run.trust import require_own_plugin
from cld_core.tuned.request import TuneRequest
from cld_core.tuned.work import Tuning
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import SchedulerAway, SchedulerRefused
from cldctl.evals import plan
from cldctl.jobs import specs

from . import sharded
from .evaluate import Outcome, steps_of
from .plugins import Say
from .work_status import work_state

# The keys of these sections that have an effect.
_READ = (
    *("sampling.eps", "sampling.denoise", "sampling.guidance", "sampling.guidance_from", "sampling.guidance_to"),
    "eval.batch_size",
)


def checkpoint_of(
    run: RunFolder, overrides: Sequence[str], wanted: str, allow_plugin: bool, say: Say
) -> tuple[Recipe, int]:
    """The recipe of a run with overrides, and the step of the intact checkpoint that a sampler is tuned to.

    Raises:
        UsageError: a key has no effect on a tuning, or the plug-in of the run may not be run.
        NotFoundError: there is no such checkpoint.
    """
    for text in overrides:
        key = text.partition("=")[0]
        if key.startswith(("sampling.", "eval.")) and key not in _READ:
            raise UsageError(f"'{key}' has no effect on a tuning. Leave it out; there are: {', '.join(_READ)}.")
    recipe = plan.recipe_for_evaluation(run.recipe(), overrides, str(run.recipe_file))
    if not allow_plugin:
        require_own_plugin(run, recipe)
    if wanted == "all":
        raise UsageError("--checkpoint all: a sampler is tuned to one network. Use 'last' or a step.")
    (step,) = steps_of(run, wanted, say, "tuning to")
    plan.require_average(run, step, recipe.ema.length)
    return recipe, step


def start(
    run: RunFolder,
    requests: Sequence[TuneRequest],
    cluster: Cluster,
    size: ClusterSpec,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Start those that are neither complete nor being computed.

    Raises:
        RecipeError: the cluster has no such jobs.
        SchedulerRefused, SchedulerAway: nothing was started, and what was made for it is removed again.
    """
    folders = {request.id: run.tuned / request.id for request in requests}
    fresh = [name for name, folder in folders.items() if not folder.exists()]
    cluster.check(specs.sharded([folders[requests[0].id]], size, cluster, run=run))
    changes.mark(run.path)
    works = [Tuning(request.store(folders[request.id])) for request in requests]
    answers = sharded.ask_about(work for work in works if not work.is_done)
    states = {work.name: work_state(work, answers) for work in works}
    missing = [work for work in works if states[work.name] == "STOPPED"]
    job = None
    if missing:
        try:
            job = sharded.start(missing, cluster, size, run=run, say=say)
        except (SchedulerRefused, SchedulerAway):
            for name in fresh:
                shutil.rmtree(folders[name], ignore_errors=True)
            raise
    return Outcome(
        complete=tuple(name for name, state in states.items() if state == "FINISHED"),
        running=tuple(name for name, state in states.items() if state in ("RUNNING", "PENDING")),
        started=tuple(work.name for work in missing),
        job=job,
    )
