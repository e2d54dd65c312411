"""The jobs of trainings and of sharded work, as clusters take them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cld_core.config import Recipe
from cld_core.config.cluster import ClusterSpec
from cld_core.digests import digest
from cld_core.files import retried, write_json
from cld_core.records import RecordError, read_record, to_plain
from cld_core.run import Ledger, RunFolder
from cld_core.run.checkpoints import slowest_save_s
from cld_core.run.groups import Group
from cldctl.clusters import job_logs
from cldctl.clusters.base import After, Cluster, JobSpec

from . import failures
from .process import READ_WITHIN_S

# The assumed seconds of a save before the first one was measured.
FIRST_SAVE_S = 10.0
# Seconds of a notice beyond three times the slowest save.
SAVE_MARGIN_S = 60


@dataclass(frozen=True)
class _Listed:
    """The content of the file that lists the runs of an array's tasks."""

    runs: tuple[str, ...]


def training(
    runs: Sequence[RunFolder],
    recipe: Recipe,
    cluster: Cluster,
    *,
    group: Group | None = None,
    after: After | None = None,
    parallel: int | None = None,
    code: Path | None = None,
) -> JobSpec:
    """The job that trains a run, or whose tasks train the runs of a group.

    `list_runs` writes the list of the runs of a group.

    Args:
        recipe: of any of them; their jobs are of the same size.
        parallel: how many tasks run at once; None for one on a cluster without a queue.
        code: the folder that the job imports from, as in `JobSpec`.
    """
    owner = runs[0] if group is None else group
    logs = owner.logs
    if group is None:
        aftermath = _aftermath("training", runs[0].path, logs, cluster)
    else:
        aftermath = _aftermath("trainings", _list_of(runs, logs), logs, cluster)
        if parallel is None and not cluster.queues:
            parallel = 1
    spec = JobSpec(
        name=owner.name,
        logs=logs,
        size=recipe.cluster,
        notice_s=notice_s(slowest_saves(runs), recipe.cluster),
        after=after,
        parallel=parallel,
        code=code,
        aftermath=aftermath,
    )
    # The nodes that any of them should avoid: an array has one list.
    return failures.for_submission(
        failures.failures_in(*(run.ledger for run in runs)), cluster, spec
    )


def _list_of(runs: Sequence[RunFolder], logs: Path) -> Path:
    """The file that lists the runs of an array."""
    return logs / f"runs-{digest([str(run.path) for run in runs])[:8]}.json"


def list_runs(spec: JobSpec, runs: Sequence[RunFolder]) -> None:
    """Write which run each task of an array trains, for the aftermath that they share.

    Raises:
        CldError: others may write into the folder.
        OSError: it cannot be written.
    """
    job_logs.prepare(spec.logs)
    listed = _Listed(tuple(str(run.path) for run in runs))
    write_json(_list_of(runs, spec.logs), to_plain(listed))


def listed_run(listed: Path, task: int) -> Path | None:
    """The run that a task trains; None if the file is damaged.

    Raises:
        OSError: it cannot be read.
    """
    try:
        runs = retried(lambda: read_record(_Listed, listed), READ_WITHIN_S).runs
    except (FileNotFoundError, RecordError):
        return None
    return Path(runs[task]) if task < len(runs) else None


def sharded(
    works: Sequence[Path],
    size: ClusterSpec,
    cluster: Cluster,
    *,
    run: RunFolder | None = None,
    logs: Path | None = None,
    after: After | None = None,
    parallel: int | None = None,
    code: Path | None = None,
) -> JobSpec:
    """The job whose tasks, of one process each, compute shards of the works in these folders.

    The ledger of the first work keeps the crashes of all tasks.

    Args:
        size: of a training with the same resources.
        run: the one that the works evaluate, whose saves were measured; None for work that belongs
            to no run.
        logs: where the output goes; default: into the folder of the first work.
        code: the folder that the job imports from, as in `JobSpec`.
    """
    logs = logs or works[0] / "logs"
    size_of_task = replace(
        size, nodes=1, tasks_per_node=1, gpus_per_node=min(1, size.gpus_per_node), successor=False
    )
    ledgers = [Ledger(works[0] / "jobs.jsonl")]
    name = "cldctl-stats"
    if run is not None:
        ledgers.append(run.ledger)
        name = f"{run.name}-eval"
    spec = JobSpec(
        name=name,
        logs=logs,
        size=size_of_task,
        notice_s=notice_s([] if run is None else slowest_saves([run]), size),
        after=after,
        parallel=parallel,
        code=code,
        aftermath=_aftermath("shards", works[0], logs, cluster),
    )
    return failures.for_submission(failures.failures_in(*ledgers), cluster, spec)


def _aftermath(kind: str, folder: Path, logs: Path, cluster: Cluster) -> tuple[str, ...]:
    """Module and arguments of what follows a bad end; the launcher adds the exit code."""
    launcher = f"{type(cluster).__module__}:{type(cluster).__qualname__}"
    return ("cldctl.jobs.aftermath", kind, str(folder), str(logs), launcher)


def notice_s(saves: Sequence[float], size: ClusterSpec) -> int:
    """Seconds before its time limit at which a job gets the signal to stop.

    Three times the slowest save and a margin, unless ``size`` sets it.
    """
    if size.signal_s is not None:
        return size.signal_s
    return round(3 * max(saves, default=FIRST_SAVE_S)) + SAVE_MARGIN_S


def slowest_saves(runs: Iterable[RunFolder]) -> list[float]:
    """The seconds that the slowest save of each run took, of runs that have saved."""
    return [seconds for run in runs if (seconds := slowest_save_s(run)) is not None]


def measured_saves(runs: Iterable[RunFolder]) -> tuple[float | None, int]:
    """Seconds of the slowest save of all runs (None before the first) and of the notice."""
    saves = slowest_saves(runs)
    return max(saves, default=None), notice_s(saves, ClusterSpec())
