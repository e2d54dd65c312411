"""What the trainings of runs used of the cluster (docs/usage.md)."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cld_core.run import RunFolder
from cld_core.run.events import fate_of
from cld_core.run.history import Attempt, History
from cld_core.run.timeline import Stretch, stretches
from cld_core.sanitize import one_line

if TYPE_CHECKING:
    from cld_core.config.cluster import ClusterSpec

# An attempt without an end that has not reported for so many seconds is over.
SILENT_S = 900.0
GPU = "GPU-hours"
CORE = "core-hours"
JOB = "job-hours"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Hours of GPUs, of CPU cores, or of jobs of unknown size.

    Attributes:
        unit: `GPU`, `CORE` or `JOB`.
        used: all that was reserved; the sum of the next five.
        useful: spent on steps that the run still has, or may still save.
        startup: before the first step of attempts that nothing had interrupted.
        lost_to_preemption: spent on steps that were repeated, and on starting again, because the
            job was taken away.
        lost_to_crashes: the same, because a rank, a node or the training failed.
        set_aside: spent on steps that `resume --from` an earlier one gave up.
        waited_s: in the queue, in seconds of one job, whatever its size.
        attempts: the number of attempts that are counted.
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
        values = {
            name: value + getattr(other, name)
            for name, value in vars(self).items()
            if name != "unit"
        }
        return Usage(unit=self.unit, **values)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "goodput": self.goodput}


def used_by(
    run: RunFolder,
    history: History,
    attempts: Sequence[Stretch],
    *,
    alive: bool,
    since: float = 0.0,
) -> Usage:
    """What a run has used: its attempts, and starts that ended before they trained.

    Args:
        attempts: the attempts of the run, oldest first.
        alive: whether the newest attempt is training.
        since: only usage after this time counts, seconds since 1970.
    """
    untrained = history.untrained
    needs_recipe = any(stretch.attempt.ranks is None for stretch in attempts)
    needs_recipe |= bool(untrained and not attempts)
    requested = size_of(run) if needs_recipe else None
    # The size of an untrained start is not recorded: it is that of an attempt, or of the recipe.
    sizes = [_devices(stretch.attempt, requested) for stretch in attempts]
    usual = sizes[-1] if sizes else _requested_devices(requested)
    unit = GPU if any(size[GPU] for size in sizes or [usual]) else CORE
    if needs_recipe and requested is None:
        unit = JOB
    seconds = sum(
        (until - began) * _share_after(since, began, until) for began, until in untrained.values()
    )
    hours = usual[unit] * seconds / 3600
    total = Usage(unit=unit, used=hours, lost_to_crashes=hours)
    before: Attempt | None = None
    for stretch, size in zip(attempts, sizes, strict=True):
        lives = alive and stretch.attempt.cause is None and stretch.attempt is attempts[-1].attempt
        total += _of(stretch, before, size[unit], unit, lives, since)
        before = stretch.attempt
    return total


def _devices(attempt: Attempt, requested: "ClusterSpec | None") -> dict[str, int]:
    """By unit, the devices of an attempt; those that the recipe requests if none are recorded."""
    devices = _requested_devices(requested)
    if attempt.gpus is not None:
        devices[GPU] = attempt.gpus
    elif attempt.ranks is not None:
        devices[GPU] = 0
    if attempt.cores:
        devices[CORE] = attempt.cores
    return devices


def _requested_devices(size: "ClusterSpec | None") -> dict[str, int]:
    """By unit, the devices that a recipe requests; one core if the recipe cannot be read."""
    if size is None:
        return {GPU: 0, CORE: 1, JOB: 1}
    return {GPU: size.gpus, CORE: size.cores, JOB: 1}


def summed(usages: Iterable[Usage]) -> list[Usage]:
    """The totals by unit, GPUs first; no core-hours if there is no usage."""
    totals: dict[str, Usage] = {}
    for usage in usages:
        # A run that has used nothing yet has no unit of its own.
        if usage.attempts or usage.waited_s or usage.used:
            totals[usage.unit] = totals.get(usage.unit, Usage(unit=usage.unit)) + usage
    return [totals[unit] for unit in (GPU, CORE, JOB) if unit in totals] or [Usage(unit=CORE)]


def _of(
    stretch: Stretch, before: Attempt | None, devices: int, unit: str, lives: bool, since: float
) -> Usage:
    """What one attempt has used.

    Args:
        before: the attempt before it.
    """
    hours = devices * _share_after(since, stretch.began, stretch.until) / 3600
    kept, lost, aside = (seconds * hours for seconds in stretch.split(alive=lives))
    startup = stretch.startup_s * hours
    losses = {"lost_to_preemption": 0.0, "lost_to_crashes": 0.0}
    losses[f"lost_to_{fate_of(stretch.attempt.cause) or 'crashes'}"] += lost
    if before is not None and before.cause != "finished":
        # Starting again is a loss by what ended the attempt before.
        losses[f"lost_to_{fate_of(before.cause) or 'crashes'}"] += startup
        startup = 0.0
    queued = stretch.began - stretch.waited_s
    return Usage(
        unit=unit,
        used=stretch.allocated_s * hours,
        useful=kept,
        startup=startup,
        set_aside=aside,
        **losses,
        waited_s=stretch.waited_s * _share_after(since, queued, stretch.began),
        attempts=int(stretch.until > since),
    )


def _share_after(since: float, begin: float, end: float) -> float:
    """The part of a time that lies after ``since``, 0 to 1."""
    if begin >= since:
        return 1.0
    return 0.0 if end <= since else (end - since) / (end - begin)


def size_of(run: RunFolder) -> "ClusterSpec | None":
    """The size of job that the current recipe requests; None if it cannot be read."""
    try:
        return run.recipe().cluster
    except Exception:  # The time that the run took is known without its recipe.
        return None


def usage_of(run: RunFolder, *, since: float = 0.0) -> Usage:
    """What a run has used, by its files alone.

    Its newest attempt counts as alive unless it has been silent for `SILENT_S`.
    """
    history, _ = run.history_and_progress()
    last = history.last
    alive = False
    if last is not None and last.cause is None:
        alive = time.time() - (history.heard or last.started) < SILENT_S
    return used_by(run, history, stretches(history, alive=alive), alive=alive, since=since)


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
        usages: list[tuple[str, str | None, Usage]] = []
        problems = []
        for run in runs:
            try:
                problem = run.format_problem()
                if problem is None:
                    usages.append(
                        (run.name, run.identity().get("group"), usage_of(run, since=since))
                    )
            except Exception as error:  # What is wrong with one run does not hide the others.
                problem = f"{run.name} is left out: {one_line(error) or type(error).__name__}"
            if problem is not None:
                problems.append(problem)
        names = dict.fromkeys(group for _, group, _ in usages if group is not None)
        groups = {
            name: summed(usage for _, group, usage in usages if group == name) for name in names
        }
        return cls(usages, groups, summed(usage for *_, usage in usages), problems)

    def to_dict(self) -> dict[str, Any]:
        runs = [
            {"name": name, "group": group, **usage.to_dict()} for name, group, usage in self.runs
        ]
        groups = [
            {"name": name, **usage.to_dict()}
            for name, usages in self.groups.items()
            for usage in usages
        ]
        return {
            "runs": runs,
            "groups": groups,
            "totals": [usage.to_dict() for usage in self.totals],
            "problems": list(self.problems),
        }
