"""Which checkpoints are removed, and which are set aside. Loads no torch."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from cld_core.run import RunFolder

ASIDE = "set_aside"


def prune(folder: RunFolder, *, keep: int, milestone: Callable[[int], bool] = lambda step: False) -> None:
    """Remove all checkpoints except the newest ``keep``, milestones, and those that an evaluation still needs.

    Raises:
        OSError: one cannot be removed; or it cannot be found out which are needed, and none is removed.
    """
    needed = folder.steps_to_evaluate()
    for step in folder.listed_steps()[:-keep]:
        if not milestone(step) and step not in needed:
            remove(folder, step)


def files_of(folder: RunFolder, step: int) -> tuple[Path, Path]:
    """The sidecar of a checkpoint, and the checkpoint."""
    return with_sidecar(folder.checkpoint_file(step))


def with_sidecar(path: Path) -> tuple[Path, Path]:
    """The sidecar of a file of tensors, and the file: without the first, the second counts as unfinished."""
    return path.with_suffix(".json"), path


def remove(folder: RunFolder, step: int) -> None:
    """Remove a checkpoint, if it exists.

    Raises:
        OSError: it cannot be removed.
    """
    for file in files_of(folder, step):
        file.unlink(missing_ok=True)


def clear_unfinished(folder: RunFolder) -> None:
    """Remove what killed writers left behind. For the owner of the run only."""
    clear_temporary(folder.checkpoints)


def clear_temporary(folder: Path) -> None:
    """Remove the files of steps that were never finished."""
    for path in folder.glob(".step_*.tmp"):
        path.unlink(missing_ok=True)


def set_aside(folder: RunFolder, after: int) -> list[int]:
    """Move the checkpoints of steps above ``after`` to `checkpoints/set_aside/`, and return their steps.

    A run that continues from an earlier step must not pick up the later ones at its next restart.

    Raises:
        OSError: they cannot be listed or moved.
    """
    later = [step for step in folder.listed_steps() if step > after]
    for step in later:
        move_aside(folder.checkpoint_file(step))
    return later


def move_aside(path: Path) -> None:
    """Move a file of tensors and its sidecar to `set_aside/` beside them.

    Raises:
        OSError: one cannot be moved.
    """
    aside = path.parent / ASIDE
    aside.mkdir(exist_ok=True)
    for file in with_sidecar(path):
        with contextlib.suppress(FileNotFoundError):
            file.replace(aside / file.name)
