"""Snapshots of power-function averages in a run's `averages/`, and those in its checkpoints. Loads no torch.

averages/step_00010000.pt, .json     the averages of a step; the sidecar is that of a checkpoint, with their lengths
averages/set_aside/                  those of steps that the run gave up
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cld_core.checkpoint import prune
from cld_core.checkpoint.verify import Sidecar, StoredAverages, sidecar_of
from cld_core.digests import digest
from cld_core.run import RunFolder

# Above this relative error of its profile, a reconstructed average comes with a remark.
TOLD_ABOVE = 0.02


@dataclass(frozen=True)
class Stored:
    """A file with averages: a snapshot, or a checkpoint."""

    path: Path
    sidecar: Sidecar
    averages: StoredAverages

    @property
    def step(self) -> int:
        return self.sidecar.step


def of_checkpoint(run: RunFolder, step: int) -> Stored | None:
    """The averages in the checkpoint of a step; None if it has none.

    Raises:
        OSError: its sidecar cannot be read.
    """
    sidecar = sidecar_of(run, step)
    if sidecar is None or sidecar.averages is None:
        return None
    return Stored(run.checkpoint_file(step), sidecar, sidecar.averages)


def before(run: RunFolder, step: int) -> list[Stored]:
    """The snapshots of earlier steps than ``step``, ascending, without those whose file is missing or has another size.

    Raises:
        OSError: they cannot be listed.
    """
    return [stored for number in run.snapshot_steps() if number < step and (stored := _of(run, number)) is not None]


def usable(run: RunFolder, step: int) -> list[Stored]:
    """The stored averages for reconstruction at the checkpoint of a step: snapshots before it, and its own, last.

    Empty if it has none. Snapshots of averages that began at another step are left out.

    Raises:
        OSError: they cannot be listed.
    """
    own = of_checkpoint(run, step)
    if own is None:
        return []
    began = own.averages.began
    return [*(stored for stored in before(run, step) if stored.averages.began == began), own]


def fingerprint(run: RunFolder, step: int) -> str:
    """A digest of everything but the checkpoint itself that an average at this checkpoint may depend on.

    Raises:
        OSError: the snapshots cannot be listed.
    """
    return digest([[stored.step, stored.sidecar.sha256] for stored in before(run, step)])[:16]


def files(run: RunFolder) -> list[Path]:
    """All files of snapshots, also of those that were set aside or never finished.

    Raises:
        OSError: they cannot be listed.
    """
    folders = (run.averages, run.averages / prune.ASIDE)
    return [path for folder in folders for path in sorted(_within(folder)) if path.suffix in (".pt", ".json", ".tmp")]


def clear_unfinished(run: RunFolder) -> None:
    """Remove what killed writers left behind. For the owner of the run only."""
    prune.clear_temporary(run.averages)


def set_aside(run: RunFolder, after: int) -> list[int]:
    """Move the snapshots of steps above ``after`` to `averages/set_aside/`, and return their steps.

    Steps that were discarded by a rollback, a crash or `resume --from` do not belong to the averages that follow.

    Raises:
        OSError: they cannot be listed or moved.
    """
    later = [step for step in run.snapshot_steps() if step > after]
    for step in later:
        prune.move_aside(run.snapshot_file(step))
    return later


def _of(run: RunFolder, step: int) -> Stored | None:
    path = run.snapshot_file(step)
    sidecar = Sidecar.read(path.with_suffix(".json"))
    if sidecar is None or sidecar.averages is None or sidecar.step != step:
        return None
    try:
        return Stored(path, sidecar, sidecar.averages) if path.stat().st_size == sidecar.bytes else None
    except FileNotFoundError:
        return None


def _within(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield from folder.iterdir()
