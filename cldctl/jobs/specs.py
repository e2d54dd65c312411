"""The jobs of works, as clusters take them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cld_core.config.cluster import ClusterSpec
from cld_core.digests import digest
from cld_core.errors import NotFoundError
from cld_core.files import retried, write_json
from cld_core.records import RecordError, read_record, to_plain
from cld_core.run import RunFolder
from cld_core.run.checkpoints import slowest_save_s
from cld_core.run.groups import Group
from cld_core.run.work import Work
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


def of_works(
    works: Sequence[Work],
    size: ClusterSpec,
    cluster: Cluster,
    *,
    group: Group | None = None,
    logs: Path | None = None,
    after: After | None = None,
    parallel: int | None = None,
    code: Path | None = None,
) -> JobSpec:
    """The job whose tasks compute works of one kind.

    A task of trainings is a world of ranks, and `list_runs` writes the list of the runs of a group.
    A task of sharded works is a single process; the ledger of the first work keeps the crashes of
    all of them.

    Args:
        size: the size of a training with the resources of a job.
        group: the group that the works belong to; None for works of one run, or of none.
        logs: where the output goes; default: into the folder of the group, or of the first work.
        parallel: how many tasks run at once; None for one training on a cluster without a queue.
        code: the folder that the job imports from, as in `JobSpec`.
    """
    first = works[0]
    default_logs = first.folder / "logs" if group is None else group.logs
    logs = logs or default_logs
    members = works if first.is_world else works[:1]
    runs = [work.run for work in members if work.run is not None]
    ledgers = [run.ledger for run in runs]
    if not first.is_world:
        ledgers.append(first.ledger)
        name = f"{runs[0].name}-eval" if runs else "cldctl-stats"
        arguments = ("shards", first.folder)
        size = replace(
            size,
            nodes=1,
            tasks_per_node=1,
            gpus_per_node=min(1, size.gpus_per_node),
            successor=False,
        )
    elif group is None:
        name = first.name
        arguments = ("training", first.folder)
    else:
        name = group.name
        arguments = ("trainings", _list_of(runs, logs))
        if parallel is None and not cluster.queues:
            parallel = 1
    launcher = f"{type(cluster).__module__}:{type(cluster).__qualname__}"
    # The launcher adds the exit code.
    aftermath = ("cldctl.jobs.aftermath", *map(str, arguments), str(logs), launcher)
    spec = JobSpec(
        name=name,
        logs=logs,
        size=size,
        notice_s=notice_s(slowest_saves(runs), size),
        after=after,
        parallel=parallel,
        code=code,
        aftermath=aftermath,
    )
    # The nodes that any of them should avoid: an array has one list.
    return failures.for_submission(failures.failures_in(*ledgers), cluster, spec)


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


def listed_run(listed: Path, task: int) -> Path:
    """The run that a task of an array trains, by the file of `list_runs`.

    Raises:
        NotFoundError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        return Path(retried(lambda: read_record(_Listed, listed), READ_WITHIN_S).runs[task])
    except (FileNotFoundError, RecordError, IndexError) as error:
        raise NotFoundError(f"{listed}: it is damaged.") from error


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
