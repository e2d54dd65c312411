"""Starting the tunings of a run that are missing, by one submission."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cld_core.recipe.cluster import ClusterSpec
from cld_core.run import RunFolder, changes
from cld_core.run.events import JobRef
from cld_core.tuned.request import TuneRequest
from cld_core.tuned.work import Tuning
from cldctl.clusters.base import Cluster
from cldctl.clusters.records import SchedulerAway, SchedulerRefused
from cldctl.jobs import specs

from . import sharded
from .sharded_state import work_state


@dataclass(frozen=True)
class Started:
    """Tunings by the state that they were in; ``job`` computes those of ``started``."""

    complete: tuple[str, ...]
    running: tuple[str, ...]
    started: tuple[str, ...]
    job: JobRef | None


def start(
    run: RunFolder,
    requests: Sequence[TuneRequest],
    cluster: Cluster,
    size: ClusterSpec,
    say: Callable[[str], None] = lambda text: None,
) -> Started:
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
    return Started(
        complete=tuple(name for name, state in states.items() if state == "FINISHED"),
        running=tuple(name for name, state in states.items() if state in ("RUNNING", "PENDING")),
        started=tuple(work.name for work in missing),
        job=job,
    )
