"""Removing checkpoints of runs that are over: all but the last good one, milestones and those that results name."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cld_core.checkpoint.files import files_of, newest_good, remove, snapshot_files
from cld_core.errors import UsageError
from cld_core.evaluate.evaluation import evaluations_of, unnamed_rows
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.work import Work
from cld_core.tune.tuning import tunings_of

from . import survey
from .removal import alone, require_over, size_of


@dataclass(frozen=True)
class Pruning:
    """What of a run's checkpoints is removed, and what stays.

    Attributes:
        remove: steps, ascending; ``size`` is the bytes of their files.
        keep: why it is kept, by step.
        averages: files of snapshots of averages that are removed; ``size_of_averages`` is their bytes.
        rows: folders of what evaluations computed that none names any more; ``size_of_rows`` is their bytes.
    """

    run: RunFolder
    remove: tuple[int, ...]
    size: int
    keep: dict[int, str]
    averages: tuple[Path, ...] = ()
    size_of_averages: int = 0
    rows: tuple[Path, ...] = ()
    size_of_rows: int = 0


def plan(runs: Sequence[RunFolder], keep_every: int | None, averages: bool = False) -> list[Pruning]:
    """What pruning these runs means. Nothing is changed. The last checkpoint of each is read and verified.

    Args:
        keep_every: checkpoints of every so many steps are kept, besides the milestones of the recipe.
        averages: remove the snapshots of averages, too. The checkpoints keep their own.

    Raises:
        CldError: a run belongs to somebody else, or its checkpoints cannot be read.
        SchedulerAway: a cluster that would know whether one is alive does not answer.
        UsageError: one is alive, or has an evaluation that still needs the averages.
    """
    for run in runs:
        require_may_change(run.path, "Nothing was removed")
    answers = survey.of_runs(runs)
    prunings = []
    for run in runs:
        require_over(run, answers, "Nothing was removed")
        keep = _kept(run, keep_every)
        others = tuple(step for step in run.listed_steps() if step not in keep)
        size = _size(file for step in others for file in files_of(run.checkpoint_file(step)))
        stored = _averages(run) if averages else ()
        rows = tuple(unnamed_rows(run))
        prunings.append(Pruning(run, others, size, keep, stored, _size(stored), rows, sum(map(size_of, rows))))
    return prunings


def prune(pruning: Pruning) -> None:
    """Remove the checkpoints and rows, unless the run has come to life since.

    Raises:
        CldError: it has, or a job of it is being started.
        OSError: a file cannot be removed.
    """
    run = pruning.run
    with alone(run, "Nothing was removed") as check:
        needed = run.steps_to_evaluate()
        for step in pruning.remove:
            if step not in needed:
                check()
                remove(run, step)
        for file in pruning.averages:
            check()
            file.unlink(missing_ok=True)
        unnamed = set(unnamed_rows(run))
        for folder in pruning.rows:
            if folder in unnamed:
                check()
                shutil.rmtree(folder)


def _averages(run: RunFolder) -> tuple[Path, ...]:
    works: list[tuple[Work, float | None]] = [(work, work.request.ema.length) for work in evaluations_of(run)]
    works += [(work, work.request.ema_length) for work in tunings_of(run)]
    for work, length in works:
        if length is not None and not work.is_done:
            fix = f"Run `{work.command}` again to finish it, or leave out --averages"
            raise UsageError(f"{run.name}: {work.name} still needs the snapshots of averages. {fix}.")
    return tuple(snapshot_files(run))


def _size(files: Iterable[Path]) -> int:
    return sum(file.lstat().st_size for file in files if file.exists())


def _kept(run: RunFolder, keep_every: int | None) -> dict[int, str]:
    """The steps whose checkpoints are kept, and why."""
    steps = run.listed_steps()
    last, _ = newest_good(run)
    history, recipe = run.ledger.history(), run.recipe()
    evaluated = {work.request.checkpoint_step for work in evaluations_of(run)} | run.steps_to_evaluate()
    tuned = {work.request.checkpoint_step for work in tunings_of(run)}
    keep: dict[int, str] = {}
    for step in steps:
        if step == last:
            keep[step] = "the last"
        elif last is None or step > last:
            keep[step] = "after the last intact one"
        elif step in evaluated:
            keep[step] = "evaluated"
        elif step in tuned:
            keep[step] = "a sampler was tuned to it"
        elif step == history.imported_step:
            keep[step] = "imported"
        elif recipe.train.is_milestone(step):
            keep[step] = "a milestone of the recipe"
        elif keep_every is not None and step % keep_every == 0:
            keep[step] = f"a multiple of {keep_every}"
    return keep
