"""The files of checkpoints and of snapshots of averages: names, checks, removal.

    checkpoints/step_00010000.pt                     the state of training, without the averages
    checkpoints/step_00010000.ema.safetensors        the averaged weights, for samples and metrics
    checkpoints/step_00010000.ema-0.1.safetensors    those of another length, made on demand
    checkpoints/step_00010000.json                   sidecar: sizes, checksums of the first two
    averages/step_00010000.pt, .json                 a snapshot of the power-function averages
    checkpoints/set_aside/, averages/set_aside/      those of steps that the run gave up

The sidecar is written last and removed first: a checkpoint exists exactly when its sidecar does.
Loads no torch or numpy.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.config.train import LONGEST
from cld_core.digests import checksum, digest
from cld_core.errors import CheckpointError, CldError, NotFoundError
from cld_core.files import NO_FILE, existing_object, passes
from cld_core.records import RecordError, find_record, from_plain, record
from cld_core.sanitize import is_count, one_line

from .folder import RunFolder

FORMAT = 2
# A reconstructed average with a larger relative error of its profile comes with a remark.
REMARK_ABOVE = 0.02
_ASIDE = "set_aside"

_log = logging.getLogger(__name__)


# --- the content of a sidecar


@dataclass(frozen=True)
class StoredAverages:
    """The power-function averages in a file: see `averages.PowerAverages`."""

    lengths: tuple[float, ...]
    began: int
    updates: int

    def __post_init__(self) -> None:
        if (
            self.began < 0
            or self.updates < 1
            or not all(0 < length < LONGEST for length in self.lengths)
        ):
            raise RecordError("there are no such averages")

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "StoredAverages | None":
        """The averages in a state of training; None if there are none, or none was updated yet."""
        power = state.get("power")
        if not power or power["updates"] < 1:
            return None
        return cls(tuple(power["lengths"]), power["began"], power["updates"])


@dataclass(frozen=True)
class Content:
    """Size and checksum of a file."""

    bytes: int
    sha256: str

    def problem(self, path: Path) -> str | None:
        """How a file differs from this content; None if it does not.

        Raises:
            OSError: it cannot be read.
        """
        size = path.stat().st_size
        if size != self.bytes:
            return f"truncated ({size} bytes of {self.bytes})"
        if checksum(path) != self.sha256:
            return "damaged (its checksum differs from the one in its sidecar)"
        return None


@record
class Sidecar:
    """The content of the JSON file beside a checkpoint or snapshot.

    Attributes:
        state: the file of the state of training, or the snapshot.
        weights: the file of averaged weights; None beside a snapshot.
        model: digest of the recipe (`Recipe.model_digest`).
        seconds: duration of the save.
        averages: the power-function averages in ``state``; None if there are none.
    """

    format: int
    step: int
    state: Content
    weights: Content | None = None
    model: str = ""
    seconds: float = 0.0
    averages: StoredAverages | None = None

    def __post_init__(self) -> None:
        if min(self.format, self.step, self.state.bytes, self.seconds) < 0:
            raise RecordError("a number is below zero")


def sidecar_of(path: Path) -> Sidecar | None:
    """The sidecar of a checkpoint or snapshot; None if it is missing or damaged.

    Args:
        path: the file of tensors.

    Raises:
        OSError: it cannot be read at this moment.
    """
    try:
        return from_plain(Sidecar, existing_object(path.with_suffix(".json")) or {})
    except RecordError:
        return None


def slowest_save_s(folder: RunFolder) -> float | None:
    """The longest duration of saving one of the run's checkpoints; None without checkpoints."""
    durations = []
    for step in folder.checkpoint_steps():
        sidecar = find_record(Sidecar, folder.checkpoint_file(step).with_suffix(".json"))
        if sidecar is not None:
            durations.append(sidecar.seconds)
    return max(durations, default=None)


def weights_file(folder: RunFolder, step: int, length: float | None = None) -> Path:
    """The file of a checkpoint's averaged weights: the usual average, or that of ``length``."""
    kind = "ema" if length is None else f"ema-{float(length)!r}"
    return folder.checkpoint_file(step).with_suffix(f".{kind}.safetensors")


def weights_digest(folder: RunFolder, step: int, length: float | None = None) -> str | None:
    """Digest of the averaged weights of a checkpoint; None without the checkpoint.

    The digest for a relative length is that of its sources, so it is known before the average is
    made.

    Raises:
        OSError: a sidecar cannot be read, or the snapshots cannot be listed.
    """
    sidecar = sidecar_of(folder.checkpoint_file(step))
    if sidecar is None or sidecar.weights is None:
        return None
    if length is None:
        return sidecar.weights.sha256
    stored = [[file.step, file.sidecar.state.sha256] for file in usable(folder, step)]
    return digest([float(length), sidecar.weights.sha256, stored])


def is_replaced(folder: RunFolder, step: int, digest: str | None) -> bool:
    """Whether a checkpoint has other averaged weights than at the time of ``digest``.

    False if the checkpoint was removed, because results that were computed from it remain valid,
    and if it cannot be read now.
    """
    present = None
    with contextlib.suppress(OSError):
        present = weights_digest(folder, step)
    return present not in (None, digest)


def required_digest(folder: RunFolder, step: int, fix: str, length: float | None = None) -> str:
    """`weights_digest` of a checkpoint that is needed.

    Args:
        fix: the last sentence of the message.

    Raises:
        NotFoundError: the checkpoint is gone.
        OSError: it cannot be read at this moment.
    """
    weights = weights_digest(folder, step, length)
    if weights is None:
        raise NotFoundError(
            f"{folder.path}: no checkpoint of step {step} any more; there are: {_steps(folder)}. "
            f"{fix}"
        )
    return weights


def _steps(folder: RunFolder) -> str:
    return ", ".join(map(str, folder.checkpoint_steps())) or "none"


# --- checks of checkpoints


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint that cannot be used.

    Attributes:
        finished: False if it was never written completely.
    """

    step: int
    reason: str
    finished: bool = True

    @property
    def skipped(self) -> str:
        """The message that this checkpoint was not used."""
        return f"skipped the checkpoint of step {self.step}: {self.reason}"


def verify(
    folder: RunFolder, step: int, *, model_digest: str | None = None, weights_only: bool = False
) -> Sidecar:
    """Check the files of a checkpoint against its sidecar, and return the sidecar.

    Args:
        model_digest: the recipe's `Recipe.model_digest`; a checkpoint of another model is refused.
        weights_only: check only the averaged weights, which is enough unless training continues.

    Raises:
        NotFoundError: there is no checkpoint of this step.
        CheckpointError: it is damaged, was never finished, belongs to another recipe, or is from
            another version.
        CldError: this user may not read it.
        OSError: it cannot be read at this moment; it may be intact.
    """
    path = folder.checkpoint_file(step)
    try:
        sidecar = sidecar_of(path)
        if sidecar is None or sidecar.step != step:
            if not os.path.lexists(path):
                raise NotFoundError(
                    f"{folder.path}: no checkpoint of step {step}. Existing ones: {_steps(folder)}."
                )
            raise _damaged(path, f"its sidecar {path.stem}.json is missing or unreadable")
        if sidecar.format != FORMAT:
            raise CheckpointError(
                f"{path}: has format version {sidecar.format}, this cldctl reads {FORMAT}. "
                "Install the version that wrote it."
            )
        contents = {path: sidecar.state, weights_file(folder, step): sidecar.weights}
        if weights_only:
            del contents[path]
        for path, content in contents.items():
            if content is None:
                raise _damaged(path, "its sidecar does not name it")
            if (problem := content.problem(path)) is not None:
                raise _damaged(path, problem)
    except FileNotFoundError as error:
        raise _damaged(path, "missing, though its sidecar exists") from error
    except OSError as error:
        if passes(error):
            raise
        if error.errno in NO_FILE:
            raise _damaged(path, "damaged (it is not a regular file)") from error
        raise CldError(
            f"{path}: cannot be read ({error.strerror}). "
            "Check the disk and the permissions, or use another step."
        ) from error
    _require_model(folder, sidecar, model_digest)
    return sidecar


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {problem}. Use another step, or name none to use the newest intact one."
    )


def _require_model(folder: RunFolder, sidecar: Sidecar, model_digest: str | None) -> None:
    if model_digest is not None and sidecar.model != model_digest:
        raise CheckpointError(
            f"{folder.checkpoint_file(sidecar.step)}: belongs to another recipe "
            "(data, SDE, network, objective or optimiser differ). "
            "Move it to the run it came from."
        )


def newest_good(
    folder: RunFolder, model_digest: str | None = None, *, weights_only: bool = False
) -> tuple[int | None, list[DamagedCheckpoint]]:
    """The newest step with an intact checkpoint, and the damaged checkpoints above it.

    Raises:
        CheckpointError: the newest intact one belongs to another recipe, and so do older ones.
        CldError: this user may not read a checkpoint.
        OSError: a checkpoint, or their list, cannot be read at this moment. An older one would lose
            the steps since.
    """
    damaged: list[DamagedCheckpoint] = []
    for entry in _verified(folder, reversed(folder.listed_steps(unfinished=True)), weights_only):
        if not isinstance(entry, DamagedCheckpoint):
            _require_model(folder, entry, model_digest)
            return entry.step, damaged
        damaged.append(entry)
    return None, damaged


def all_whole(folder: RunFolder) -> tuple[list[int], list[DamagedCheckpoint]]:
    """The steps of intact checkpoints, ascending, and the checkpoints that are damaged.

    Checkpoints that were never written completely are left out.
    """
    steps: list[int] = []
    damaged: list[DamagedCheckpoint] = []
    for entry in _verified(folder, folder.checkpoint_steps()):
        if isinstance(entry, DamagedCheckpoint):
            damaged.append(entry)
        else:
            steps.append(entry.step)
    return steps, damaged


def _verified(
    folder: RunFolder, steps: Iterable[int], weights_only: bool = False
) -> Iterator[Sidecar | DamagedCheckpoint]:
    """For each step the verified sidecar, or the record that its checkpoint is damaged."""
    finished = set(folder.listed_steps())
    for step in steps:
        try:
            yield verify(folder, step, weights_only=weights_only)
        except NotFoundError:
            continue  # Training has removed it since it was listed.
        except CheckpointError as error:
            yield DamagedCheckpoint(step, str(error), finished=step in finished)


def pick_checkpoint(folder: RunFolder, model_digest: str | None, checkpoint: int | str) -> int:
    """The step that ``checkpoint`` (a step or "last") means; its averaged weights are verified.

    Raises:
        NotFoundError: the run has no such checkpoint, or none at all.
        CheckpointError: the checkpoint is damaged, belongs to another recipe, or is from another
            version.
        CldError: this user may not read it.
        OSError: it cannot be read at this moment.
    """
    if is_count(str(checkpoint)):
        verify(folder, int(checkpoint), model_digest=model_digest, weights_only=True)
        return int(checkpoint)
    if str(checkpoint) != "last":
        raise NotFoundError(
            f"'{one_line(str(checkpoint))}' is not a checkpoint of {folder.name}. "
            f"Use 'last' or a step; existing ones: {_steps(folder)}."
        )
    step, damaged = newest_good(folder, model_digest, weights_only=True)
    for entry in damaged:
        if entry.finished:
            _log.warning("%s", entry.skipped)
    if step is None:
        if damaged:
            raise NotFoundError(
                f"{folder.path} has no usable checkpoint yet: {damaged[0].reason}. "
                f"Train it again: `cldctl resume {folder.name}`."
            )
        raise NotFoundError(
            f"{folder.path} has no usable checkpoint yet. "
            f"Wait for the first one, or if the run has stopped: `cldctl resume {folder.name}`."
        )
    return step


# --- stored power-function averages


@dataclass(frozen=True)
class Stored:
    """A file with averages: a snapshot, or the state of a checkpoint."""

    path: Path
    sidecar: Sidecar
    averages: StoredAverages

    @property
    def step(self) -> int:
        return self.sidecar.step


def usable(folder: RunFolder, step: int) -> list[Stored]:
    """The stored averages that an average at the checkpoint of a step is made of.

    These are earlier snapshots, and then the checkpoint's own averages; empty if it has none.
    Snapshots are left out if their averages began at another step, if they belong to another
    recipe, or if their file is missing or has another size.

    Raises:
        OSError: a sidecar cannot be read, or they cannot be listed.
    """
    sidecar = sidecar_of(folder.checkpoint_file(step))
    if sidecar is None or sidecar.averages is None:
        return []
    own = Stored(folder.checkpoint_file(step), sidecar, sidecar.averages)
    snapshots = []
    for number in folder.snapshot_steps():
        snapshot = _snapshot(folder, number) if number < step else None
        if (
            snapshot is not None
            and snapshot.sidecar.model == sidecar.model
            and snapshot.averages.began == own.averages.began
        ):
            snapshots.append(snapshot)
    return [*snapshots, own]


def _snapshot(folder: RunFolder, step: int) -> Stored | None:
    path = folder.snapshot_file(step)
    sidecar = sidecar_of(path)
    if sidecar is None or sidecar.averages is None or sidecar.step != step:
        return None
    try:
        is_whole = path.stat().st_size == sidecar.state.bytes
    except FileNotFoundError:
        return None
    return Stored(path, sidecar, sidecar.averages) if is_whole else None


def snapshot_files(folder: RunFolder) -> list[Path]:
    """All files of snapshots, also of those that were set aside or never finished.

    Raises:
        OSError: they cannot be listed.
    """
    paths = [*sorted(folder.averages.glob("*")), *sorted((folder.averages / _ASIDE).glob("*"))]
    return [path for path in paths if path.suffix in (".pt", ".json", ".tmp")]


# --- removal and setting aside


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint or snapshot: sidecar, tensors, averaged weights.

    The first two may be missing.

    Args:
        path: the file of tensors.
    """
    return [path.with_suffix(".json"), path, *path.parent.glob(f"{path.stem}.ema*.safetensors")]


def remove(folder: RunFolder, step: int) -> None:
    """Remove a checkpoint, if it exists.

    Raises:
        OSError: it cannot be removed.
    """
    for file in files_of(folder.checkpoint_file(step)):
        file.unlink(missing_ok=True)


def prune(
    folder: RunFolder,
    *,
    keep: int,
    milestone: Callable[[int], bool] = lambda step: False,
    regular: Callable[[int], bool] = lambda step: True,
) -> None:
    """Remove older checkpoints, except for those that an evaluation still needs.

    Args:
        keep: the number of the newest regular checkpoints that stay. The newest checkpoint stays,
            too, if it is not regular.
        milestone: whether the checkpoint of a step is kept forever.
        regular: whether the checkpoint of a step is preferred to those that were saved by time or
            at a stop. Without a preference, only checkpoints of the last minutes would be left.

    Raises:
        OSError: a checkpoint cannot be removed; or those that evaluations need cannot be listed, so
            none is removed.
    """
    needed = folder.steps_to_evaluate()
    steps = folder.listed_steps()
    preferred = sorted(steps, key=lambda step: (regular(step), step), reverse=True)
    kept = {*preferred[:keep], *steps[-1:]}
    for step in steps:
        if step not in kept and step not in needed and not milestone(step):
            remove(folder, step)


def clear_unfinished(folder: RunFolder) -> None:
    """Remove drafts of killed writers. Only the holder of the lease may call this."""
    for drafts in (folder.checkpoints, folder.averages):
        for path in drafts.glob(".step_*.tmp"):
            path.unlink(missing_ok=True)


def set_aside(folder: RunFolder, after: int) -> list[int]:
    """Move checkpoints and snapshots of steps above ``after`` to `set_aside/` beside them.

    Returns the steps of the checkpoints. A run that continues from an earlier step must not pick up
    later checkpoints at its next restart, and later snapshots do not belong to the averages that
    follow.

    Raises:
        OSError: they cannot be listed or moved.
    """
    later = [step for step in folder.listed_steps() if step > after]
    snapshots = [folder.snapshot_file(step) for step in folder.snapshot_steps() if step > after]
    for path in (*map(folder.checkpoint_file, later), *snapshots):
        aside = path.parent / _ASIDE
        aside.mkdir(exist_ok=True)
        for file in files_of(path):
            with contextlib.suppress(FileNotFoundError):
                file.replace(aside / file.name)
    return later
