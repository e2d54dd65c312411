"""The files of checkpoints, and of snapshots of averages: names, checks, removal. Loads no torch or
numpy.

checkpoints/step_00010000.pt                     what training continues from, without the averaged
weights checkpoints/step_00010000.ema.safetensors        the averaged weights: what is sampled,
evaluated and exported checkpoints/step_00010000.ema-0.1.safetensors    those of an average of
another length, made when it is wanted checkpoints/step_00010000.json                   the sidecar:
sizes and checksums of the first two averages/step_00010000.pt, .json                 a snapshot of
the power-function averages of a step set_aside/ in both                               those of
steps that the run gave up

The sidecar is written last and removed first: a checkpoint exists exactly when its sidecar does.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cld_core.codec import RecordError, find_record, from_plain
from cld_core.config.train import LONGEST
from cld_core.digests import checksum, digest
from cld_core.errors import CheckpointError, CldError, NotFoundError
from cld_core.files import NO_FILE, existing_object, passes
from cld_core.sanitize import is_count, one_line

from .folder import RunFolder

FORMAT = 2
# Above this relative error of its profile, an average that was made of others comes with a remark.
TOLD_ABOVE = 0.02
_ASIDE = "set_aside"
_FIX = "Use another step, or name none to use the newest intact one"

_log = logging.getLogger(__name__)


# --- what a sidecar says


@dataclass(frozen=True)
class StoredAverages:
    """What power-function averages a file has: see `averages.PowerAverages`."""

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
        """Those of a state of training; None if there are none, or none that has taken a step."""
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
        """How a file differs from this; None if it does not.

        Raises:
            OSError: it cannot be read.
        """
        size = path.stat().st_size
        if size != self.bytes:
            return f"truncated ({size} bytes of {self.bytes})"
        if checksum(path) != self.sha256:
            return "damaged (its checksum differs from the one in its sidecar)"
        return None


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What the JSON file beside a checkpoint or snapshot promises.

    Attributes:
        state: the file of what training continues from, or the snapshot.
        weights: the file of averaged weights; None beside a snapshot.
        model: digest of the recipe (`Recipe.model_digest`).
        seconds: how long saving took.
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
    """The sidecar of a checkpoint or snapshot, of which ``path`` is the tensors; None if it is
    missing or damaged.

    Raises:
        OSError: nobody knows, because the file cannot be read.
    """
    try:
        return from_plain(Sidecar, existing_object(path.with_suffix(".json")) or {})
    except RecordError:
        return None


def slowest_save_s(folder: RunFolder) -> float | None:
    """The most seconds that saving one of the run's checkpoints took; None without checkpoints."""
    found = (
        find_record(Sidecar, folder.checkpoint_file(step).with_suffix(".json"))
        for step in folder.checkpoint_steps()
    )
    return max((sidecar.seconds for sidecar in found if sidecar is not None), default=None)


def weights_file(folder: RunFolder, step: int, length: float | None = None) -> Path:
    """The averaged weights of a checkpoint: of the usual average, or of one of a relative
    length."""
    kind = "ema" if length is None else f"ema-{float(length)!r}"
    return folder.checkpoint_file(step).with_suffix(f".{kind}.safetensors")


def weights_digest(folder: RunFolder, step: int, length: float | None = None) -> str | None:
    """What identifies the averaged weights of a checkpoint, whoever makes them; None without the
    checkpoint.

    Raises:
        OSError: a sidecar cannot be read, or the snapshots cannot be listed.
    """
    sidecar = sidecar_of(folder.checkpoint_file(step))
    if sidecar is None or sidecar.weights is None:
        return None
    if length is None:
        return sidecar.weights.sha256
    stored = [[one.step, one.sidecar.state.sha256] for one in usable(folder, step)]
    return digest([float(length), sidecar.weights.sha256, stored])


def required_digest(folder: RunFolder, step: int, fix: str, length: float | None = None) -> str:
    """As `weights_digest`.

    Args:
        fix: the last sentence of the message.

    Raises:
        NotFoundError: the checkpoint is gone.
        OSError: nobody knows at this moment.
    """
    found = weights_digest(folder, step, length)
    if found is None:
        raise NotFoundError(
            f"{folder.path}: no checkpoint of step {step} any more; there are: {_steps(folder)}. "
            f"{fix}"
        )
    return found


def _steps(folder: RunFolder) -> str:
    return ", ".join(map(str, folder.checkpoint_steps())) or "none"


# --- which checkpoints are whole


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint that cannot be used, and why; ``finished`` is false if it was never written
    completely."""

    step: int
    reason: str
    finished: bool = True

    @property
    def skipped(self) -> str:
        """A message: this checkpoint was not used."""
        return f"skipped the checkpoint of step {self.step}: {self.reason}"


def verify(
    folder: RunFolder, step: int, *, model_digest: str | None = None, weights_only: bool = False
) -> Sidecar:
    """Compare the files of a checkpoint with what its sidecar promises; returns that.

    Args:
        model_digest: that of the recipe (`Recipe.model_digest`); a checkpoint of another model is
            refused.
        weights_only: look at the averaged weights alone, for those who do not continue to train.

    Raises:
        NotFoundError: there is no checkpoint of this step.
        CheckpointError: it is damaged, was never finished, belongs to another recipe, or is from
            another version. Says how.
        CldError: this user may not read it.
        OSError: it cannot be read at this moment, which says nothing about it.
    """
    path = folder.checkpoint_file(step)
    try:
        sidecar = sidecar_of(path)
        if sidecar is None or sidecar.step != step:
            if not os.path.lexists(path):
                raise NotFoundError(
                    f"{folder.path}: no checkpoint of step {step}. Existing ones: {_steps(folder)}."
                )
            raise CheckpointError(
                f"{path}: its sidecar {path.stem}.json is missing or unreadable. {_FIX}."
            )
        if sidecar.format != FORMAT:
            text = f"has format version {sidecar.format}, this cldctl reads {FORMAT}"
            raise CheckpointError(f"{path}: {text}. Install the version that wrote it.")
        promises = {weights_file(folder, step): sidecar.weights}
        for file, promised in (
            promises if weights_only else {path: sidecar.state, **promises}
        ).items():
            path = file
            problem = "its sidecar does not name it" if promised is None else promised.problem(file)
            if problem is not None:
                raise CheckpointError(f"{file}: {problem}. {_FIX}.")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing, though its sidecar exists. {_FIX}.") from error
    except OSError as error:
        if passes(error):
            raise
        if error.errno in NO_FILE:
            raise CheckpointError(f"{path}: damaged (it is not a regular file). {_FIX}.") from error
        text = (
            f"cannot be read ({error.strerror}). Check the disk and the permissions, or use "
            f"another step."
        )
        raise CldError(f"{path}: {text}") from error
    _require_model(folder, sidecar, model_digest)
    return sidecar


def _require_model(folder: RunFolder, sidecar: Sidecar, model_digest: str | None) -> None:
    if model_digest is not None and sidecar.model != model_digest:
        text = "belongs to another recipe (data, SDE, network, objective or optimiser differ)"
        raise CheckpointError(
            f"{folder.checkpoint_file(sidecar.step)}: {text}. Move it to the run it came from."
        )


def newest_good(
    folder: RunFolder, model_digest: str | None = None, *, weights_only: bool = False
) -> tuple[int | None, list[DamagedCheckpoint]]:
    """The newest step whose checkpoint is intact, and the damaged ones above it; arguments as for
    `verify`.

    Raises:
        CheckpointError: the newest intact one belongs to another recipe; older ones would, too.
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
    """The steps whose checkpoints are intact, ascending, and the completely written but damaged
    ones."""
    entries = list(_verified(folder, folder.checkpoint_steps()))
    damaged = [entry for entry in entries if isinstance(entry, DamagedCheckpoint)]
    return [entry.step for entry in entries if not isinstance(entry, DamagedCheckpoint)], damaged


def _verified(
    folder: RunFolder, steps: Iterable[int], weights_only: bool = False
) -> Iterator[Sidecar | DamagedCheckpoint]:
    """For each step what its sidecar promises, if it is so, or what is wrong with its
    checkpoint."""
    finished = set(folder.listed_steps())
    for step in steps:
        try:
            found = verify(folder, step, weights_only=weights_only)
        except NotFoundError:
            continue  # Training has removed it since it was listed.
        except CheckpointError as error:
            yield DamagedCheckpoint(step, str(error), finished=step in finished)
        else:
            yield found


def pick_checkpoint(folder: RunFolder, model_digest: str | None, checkpoint: int | str) -> int:
    """The step that ``checkpoint`` (a step or "last") means, whose averaged weights are verified.

    Raises:
        NotFoundError: the run has no such checkpoint, or none at all.
        CheckpointError, CldError, OSError: as `verify`.
    """
    if is_count(str(checkpoint)):
        verify(folder, int(checkpoint), model_digest=model_digest, weights_only=True)
        return int(checkpoint)
    if str(checkpoint) != "last":
        text = f"'{one_line(str(checkpoint))}' is not a checkpoint of {folder.name}"
        raise NotFoundError(f"{text}. Use 'last' or a step; existing ones: {_steps(folder)}.")
    step, damaged = newest_good(folder, model_digest, weights_only=True)
    for entry in damaged:
        if entry.finished:
            _log.warning("%s", entry.skipped)
    if step is None:
        why = f": {damaged[0].reason}" if damaged else ""
        train = f"`cldctl resume {folder.name}`"
        fix = (
            f"Train it again: {train}"
            if damaged
            else f"Wait for the first one, or if the run has stopped: {train}"
        )
        raise NotFoundError(f"{folder.path} has no usable checkpoint yet{why}. {fix}.")
    return step


# --- power-function averages that are stored


@dataclass(frozen=True)
class Stored:
    """A file with averages: a snapshot, or what training continues from."""

    path: Path
    sidecar: Sidecar
    averages: StoredAverages

    @property
    def step(self) -> int:
        return self.sidecar.step


def usable(folder: RunFolder, step: int) -> list[Stored]:
    """The stored averages for reconstruction at the checkpoint of a step: snapshots before it, and
    its own, last.

    Empty if it has none. Left out are snapshots of averages that began at another step or belong to
    another recipe, and those whose file is missing or has another size.

    Raises:
        OSError: a sidecar cannot be read, or they cannot be listed.
    """
    sidecar = sidecar_of(folder.checkpoint_file(step))
    if sidecar is None or sidecar.averages is None:
        return []
    own = Stored(folder.checkpoint_file(step), sidecar, sidecar.averages)
    before = [_snapshot(folder, number) for number in folder.snapshot_steps() if number < step]
    alike = (sidecar.model, own.averages.began)
    return [
        *(
            one
            for one in before
            if one is not None and (one.sidecar.model, one.averages.began) == alike
        ),
        own,
    ]


def _snapshot(folder: RunFolder, step: int) -> Stored | None:
    path = folder.snapshot_file(step)
    sidecar = sidecar_of(path)
    if sidecar is None or sidecar.averages is None or sidecar.step != step:
        return None
    try:
        return (
            Stored(path, sidecar, sidecar.averages)
            if path.stat().st_size == sidecar.state.bytes
            else None
        )
    except FileNotFoundError:
        return None


def snapshot_files(folder: RunFolder) -> list[Path]:
    """All files of snapshots, also of those that were set aside or never finished.

    Raises:
        OSError: they cannot be listed.
    """
    places = (folder.averages, folder.averages / _ASIDE)
    return [
        path
        for place in places
        for path in sorted(place.glob("*"))
        if path.suffix in (".pt", ".json", ".tmp")
    ]


# --- what is removed or set aside


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint or snapshot, of which ``path`` is the tensors: the sidecar first,
    whether it exists."""
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
        keep: how many of the newest stay. The very newest stays besides, if it is not regular.
        milestone: whether the checkpoint of a step is kept forever.
        regular: whether it is preferred. The others, saved by time or at a stop, would soon leave
            nothing but the last minutes.

    Raises:
        OSError: one cannot be removed; or it cannot be found out which are needed, and none is
            removed.
    """
    needed = folder.steps_to_evaluate()
    steps = folder.listed_steps()
    preferred = sorted(steps, key=lambda step: (regular(step), step), reverse=True)
    kept = {*preferred[:keep], *steps[-1:]}
    for step in steps:
        if step not in kept and step not in needed and not milestone(step):
            remove(folder, step)


def clear_unfinished(folder: RunFolder) -> None:
    """Remove what killed writers left behind. For the owner of the run only."""
    for place in (folder.checkpoints, folder.averages):
        for path in place.glob(".step_*.tmp"):
            path.unlink(missing_ok=True)


def set_aside(folder: RunFolder, after: int) -> list[int]:
    """Move checkpoints and snapshots of steps above ``after`` to `set_aside/` beside them; the
    steps of the former.

    A run that continues from an earlier step must not pick up later checkpoints at its next
    restart, and later snapshots do not belong to the averages that follow.

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
