"""What runs have used of the cluster, and what became of it (docs/usage.md). Trainings only: from their ledgers."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cld_core.config.cluster import ClusterSpec
from cld_core.run import RunFolder
from cld_core.run.events import fate_of
from cld_core.run.folder import ReportedProgress
from cld_core.run.history import Attempt, History
from cld_core.run.timeline import Stretch, in_vain, stretches
from cld_core.sanitize import one_line

# An attempt without an end that has not reported for so many seconds is over.
SILENT_S = 900.0
GPU, CORE, JOB = "GPU-hours", "core-hours", "job-hours"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Hours of GPUs, of CPU cores, or of jobs whose size nobody knows.

    Attributes:
        unit: what the numbers are hours of; ``waited_s`` is in seconds of one job, whatever its size.
        used: all that was reserved; the sum of the next five.
        useful: spent on steps that the run still has, or may still save.
        startup: before the first step of attempts that nothing had interrupted.
        lost_to_preemption: spent on steps that were repeated, and on starting again, because the job was taken away.
        lost_to_crashes: the same, because a rank, a node or the training failed.
        set_aside: spent on steps that `resume --from` an earlier one gave up.
        attempts: that are counted.
    """

    unit: str
    used: float = 0.0
    useful: float = 0.0
    startup: float = 0.0
    lost_to_preemption: float = 0.0
    lost_to_crashes: float = 0.0
    set_aside: float = 0.0
    waited_s: float = 0.0
    attempts: int = 0

    @property
    def goodput(self) -> float | None:
        """The useful part of what was used, 0 to 1; None before anything was."""
        return self.useful / self.used if self.used > 0 else None

    def __add__(self, other: "Usage") -> "Usage":
        values = {name: value + getattr(other, name) for name, value in vars(self).items() if name != "unit"}
        return Usage(unit=self.unit, **values)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "goodput": self.goodput}


@dataclass(frozen=True)
class Told:
    """What the files of a run say about its attempts.

    Attributes:
        attempts: with their costs, oldest first.
        alive: whether the newest one is training.
    """

    history: History
    attempts: Sequence[Stretch] = ()
    alive: bool = False


def usage_of(run: RunFolder, told: Told | None = None, *, since: float = 0.0) -> Usage:
    """What a run has used after ``since``, seconds since 1970.

    Args:
        told: what its files say; None to read them. Then its newest attempt is alive unless it has been silent.

    Raises:
        CldError, OSError: its files cannot be read.
    """
    if told is None:
        progress = run.progress()
        history = run.ledger.history().with_progress(progress)
        told = told_by(history, progress, run.checkpoint_steps(), alive=_seems_alive(history, progress))
    return _total(told, lambda: size_of(run), since)


def told_by(history: History, progress: ReportedProgress, checkpoints: Sequence[int], *, alive: bool) -> Told:
    """The attempts of a run with their costs.

    Args:
        checkpoints: their steps, ascending.
        alive: whether the newest attempt is training.
    """
    heard = _heard(history, progress)
    saved = checkpoints[-1] if checkpoints else None
    return Told(history, stretches(history, saved=saved, heard=heard, alive=alive), alive)


def _heard(history: History, progress: ReportedProgress) -> float | None:
    last = history.last
    return progress.get("time") if last is not None and progress.get("attempt") == last.attempt else None


def _seems_alive(history: History, progress: ReportedProgress) -> bool:
    """Whether the newest attempt may be training, by how long it has been silent: nobody is asked."""
    last = history.last
    if last is None or last.cause is not None:
        return False
    return time.time() - (_heard(history, progress) or last.started) < SILENT_S


def _total(told: Told, size: Callable[[], ClusterSpec | None], since: float) -> Usage:
    """The sum over attempts, and over starts that ended before they trained.

    Args:
        size: what the recipe asks for, for attempts that do not say what they got; called only if there are any.
    """
    attempts, lost = told.attempts, in_vain(told.history)
    # What a start in vain got, nobody recorded: as much as an attempt, or what the recipe asks for.
    is_unknown = any(it.attempt.ranks is None for it in attempts) or bool(lost and not attempts)
    known = size() if is_unknown else None
    on_gpus = any(_gpus(it.attempt, known) for it in attempts) if attempts else known is not None and known.gpus > 0
    unit = JOB if is_unknown and known is None else GPU if on_gpus else CORE
    hours = sum((until - began) * _share_after(since, began, until) for began, until in lost) / 3600
    if lost:
        hours *= _devices(attempts[-1].attempt, known, unit) if attempts else _asked(known, unit)
    total = Usage(unit=unit, used=hours, lost_to_crashes=hours)
    before: Attempt | None = None
    for stretch in told.attempts:
        devices = _devices(stretch.attempt, known, unit)
        total += _of(stretch, before, devices, told.history, unit, told.alive, since)
        before = stretch.attempt
    return total


def summed(usages: Iterable[Usage]) -> list[Usage]:
    """The totals by unit, GPUs first; one of core-hours if there is nothing at all."""
    totals: dict[str, Usage] = {}
    for usage in usages:
        # What has used nothing yet has no unit of its own.
        if usage.attempts or usage.waited_s or usage.used:
            totals[usage.unit] = totals.get(usage.unit, Usage(unit=usage.unit)) + usage
    return [totals[unit] for unit in (GPU, CORE, JOB) if unit in totals] or [Usage(unit=CORE)]


def _of(
    stretch: Stretch,
    before: Attempt | None,
    devices: int,
    history: History,
    unit: str,
    alive: bool,
    since: float,
) -> Usage:
    hours = devices * _share_after(since, stretch.began, stretch.until) / 3600
    is_last = history.last is not None and stretch.attempt.attempt == history.last.attempt
    lives = stretch.attempt.cause is None and is_last and alive
    kept, lost, aside = (seconds * hours for seconds in stretch.split(alive=lives))
    began_again = fate_of(before.cause) or "crashes" if before is not None and before.cause != "finished" else None
    startup = stretch.startup_s * hours
    loss = {"preemption": 0.0, "crashes": 0.0}
    loss[fate_of(stretch.attempt.cause) or "crashes"] += lost
    if began_again is not None:
        loss[began_again] += startup
    queued = stretch.began - stretch.waited_s
    return Usage(
        unit=unit,
        used=stretch.allocated_s * hours,
        useful=kept,
        startup=startup if began_again is None else 0.0,
        lost_to_preemption=loss["preemption"],
        lost_to_crashes=loss["crashes"],
        set_aside=aside,
        waited_s=stretch.waited_s * _share_after(since, queued, stretch.began),
        attempts=int(stretch.until > since),
    )


def _share_after(since: float, begin: float, end: float) -> float:
    """The part of a time that lies after ``since``, 0 to 1."""
    if begin >= since:
        return 1.0
    return 0.0 if end <= since else (end - since) / (end - begin)


def _gpus(attempt: Attempt, size: ClusterSpec | None) -> int:
    if attempt.gpus is not None:
        return attempt.gpus
    return size.gpus if size is not None and attempt.ranks is None else 0


def _devices(attempt: Attempt, size: ClusterSpec | None, unit: str) -> int:
    if unit == JOB:
        return 1
    if unit == GPU:
        return _gpus(attempt, size)
    return attempt.cores or (size.cores if size is not None else 1)


def _asked(size: ClusterSpec | None, unit: str) -> int:
    if size is None or unit == JOB:
        return 1
    return size.gpus if unit == GPU else size.cores


def size_of(run: RunFolder) -> ClusterSpec | None:
    """What the recipe in force asks for; None if it cannot be read."""
    try:
        return run.recipe().cluster
    except Exception:  # Whatever is wrong with a recipe, the time that its run took is known.
        return None


@dataclass(frozen=True)
class Folder:
    """Usage by name of the run, with its group; by group; and in total, by unit.

    Attributes:
        problems: which runs are left out, and why.
    """

    runs: Sequence[tuple[str, str | None, Usage]]
    groups: Mapping[str, Sequence[Usage]]
    totals: Sequence[Usage]
    problems: Sequence[str]

    @classmethod
    def of(cls, runs: Iterable[RunFolder], *, since: float = 0.0) -> "Folder":
        found: list[tuple[str, str | None, Usage]] = []
        problems = []
        for run in runs:
            try:
                problem = run.format_problem()
                if problem is None:
                    found.append((run.name, run.identity().get("group"), usage_of(run, since=since)))
            except Exception as error:  # What is wrong with one run does not hide the others.
                problem = f"{run.name} is left out: {one_line(error) or type(error).__name__}"
            if problem is not None:
                problems.append(problem)
        names = dict.fromkeys(group for _, group, _ in found if group is not None)
        groups = {name: summed(usage for _, group, usage in found if group == name) for name in names}
        return cls(found, groups, summed(usage for *_, usage in found), problems)

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": [{"name": name, "group": group, **usage.to_dict()} for name, group, usage in self.runs],
            "groups": [{"name": name, **usage.to_dict()} for name, usages in self.groups.items() for usage in usages],
            "totals": [usage.to_dict() for usage in self.totals],
            "problems": list(self.problems),
        }
