"""Checkpoints: written in the background, whole or not at all, checked before they are believed.

`step_00010000.pt` holds the tensors, `step_00010000.json` beside it the step, size and checksum. The second is
renamed into place after the first, so a checkpoint without it was never finished.
"""

import errno
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from .errors import CheckpointError, SaveError
from .run import RunFolder
from .run.atomic import replacing, write_json
from .run.intact import FORMAT, Damaged, newest_whole, verify


class CheckpointWriter:
    """Writes checkpoints of one run without stopping the training.

    `save` copies the state into host memory, which takes as long as a copy takes, and returns; a thread puts it
    on the disk. Who does not change the state before `settled` need not even wait for the copy. At most one write is
    in flight: `save` waits for the one before. The copy's memory is kept and used again.

    Args:
        folder: the run.
        keep: how many of the newest checkpoints stay.
        milestone: whether the checkpoint of a step is kept for good.
        check_owner: called right before the new file takes its place; raises when this process may not write.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        keep: int,
        milestone: Callable[[int], bool] = lambda step: False,
        check_owner: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._keep, self._milestone, self._check_owner = folder, keep, milestone, check_owner
        self._buffers: dict[tuple[str, ...], torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether a write went wrong; `wait` raises the error."""
        return self._error is not None

    def save(self, step: int, state: dict[str, Any], *, held_still: bool = False) -> None:
        """Take a snapshot of ``state`` (nested dicts and lists of tensors and plain values) and write it behind.

        Args:
            held_still: the caller changes none of the tensors before `settled` returns. Then those on the CPU are
                copied by the thread, while the caller computes; those of GPUs are copied without waiting anyway.

        Raises:
            SaveError: the write *before* this one failed.
        """
        self.wait()
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        snapshot = self._snapshot(state, (), pairs)
        on_gpu = any(value.is_cuda for _, value in pairs)
        if on_gpu or not held_still:
            _copy(pairs)
            pairs = []
        ready = None
        if on_gpu:
            ready = torch.cuda.Event()
            ready.record()
        self._copied.clear()
        self._thread = threading.Thread(target=self._write, args=(step, snapshot, pairs, ready), name="checkpoint")
        self._thread.start()

    def settled(self) -> None:
        """Wait until the snapshot that was last asked for is taken: from then on the state may change."""
        self._copied.wait()

    def wait(self) -> None:
        """Wait until nothing is in flight.

        Raises:
            SaveError: the write failed. The checkpoints before it are untouched.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _snapshot(self, value: Any, path: tuple[str, ...], pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        """``value`` with buffers for its tensors, and in ``pairs`` what is to be copied into them."""
        if isinstance(value, torch.Tensor):
            buffer = self._buffers.get(path)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                self._buffers[path] = buffer
            pairs.append((buffer, value.detach()))
            return buffer
        if isinstance(value, dict):
            return {name: self._snapshot(inner, (*path, str(name)), pairs) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._snapshot(inner, (*path, str(i)), pairs) for i, inner in enumerate(value))
        return value

    def _write(
        self,
        step: int,
        snapshot: dict[str, Any],
        pairs: list[tuple[torch.Tensor, torch.Tensor]],
        ready: "torch.cuda.Event | None",
    ) -> None:
        try:
            try:
                _copy(pairs)
            finally:
                self._copied.set()
            if ready is not None:
                ready.synchronize()
            write(self._folder, step, snapshot, check_owner=self._check_owner)
            prune(self._folder, keep=self._keep, milestone=self._milestone)
        except BaseException as error:
            self._error = error


def _copy(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for buffer, value in pairs:
        buffer.copy_(value, non_blocking=value.is_cuda)


def write(
    folder: RunFolder, step: int, state: dict[str, Any], *, check_owner: Callable[[], None] = lambda: None
) -> Path:
    """Write one checkpoint and, after it, its sidecar; returns the path of the tensors.

    Raises:
        SaveError: the disk is full or broken. Nothing half-written is left.
    """
    path, begin = folder.checkpoint_file(step), time.monotonic()
    try:
        with replacing(path) as file:
            hashing = _HashingFile(file)
            # Declared to take a whole IO[bytes]; of a file object torch's zip writer calls write and flush alone.
            torch.save({**state, "format": FORMAT, "step": step}, hashing)  # type: ignore[arg-type]
            check_owner()
        sidecar = {"format": FORMAT, "step": step, "bytes": hashing.size, "sha256": hashing.digest.hexdigest()}
        sidecar["seconds"] = round(time.monotonic() - begin, 3)
        write_json(path.with_suffix(".json"), sidecar)
    except (OSError, RuntimeError) as error:
        # torch reports a write that the system refused as a RuntimeError of its zip writer.
        raise SaveError(_why_not_written(path, error), step) from error
    return path


def prune(folder: RunFolder, *, keep: int, milestone: Callable[[int], bool] = lambda step: False) -> None:
    """Remove all but the newest ``keep`` checkpoints, the milestones and those that evaluations are yet to look at.

    The sidecar goes first.
    """
    wanted = folder.steps_to_evaluate()
    for step in folder.checkpoint_steps()[:-keep]:
        if not milestone(step) and step not in wanted:
            path = folder.checkpoint_file(step)
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def clear_unfinished(folder: RunFolder) -> None:
    """Remove what writers that were killed left behind. For the owner of the run only."""
    for path in folder.checkpoints.glob(".step_*.tmp"):
        path.unlink(missing_ok=True)


def set_aside(folder: RunFolder, after: int) -> list[int]:
    """Move the checkpoints of steps above ``after`` to `checkpoints/set_aside/`, and return their steps.

    A run that goes on from an earlier step must not meet the later ones of its other life at the next restart.
    """
    later = [step for step in folder.checkpoint_steps() if step > after]
    for step in later:
        path = folder.checkpoint_file(step)
        path.parent.joinpath("set_aside").mkdir(exist_ok=True)
        for file in (path.with_suffix(".json"), path):
            if file.exists():
                file.replace(file.parent / "set_aside" / file.name)
    return later


def load(
    folder: RunFolder, step: int, *, model_digest: str | None = None, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """The state of one verified checkpoint.

    Args:
        model_digest: what `Recipe.model_digest` says; a checkpoint of another model is refused.

    Raises:
        NotFoundError: there is no checkpoint of this step.
        CheckpointError: it is damaged, from another version, or belongs to another recipe.
    """
    verify(folder, step)
    path = folder.checkpoint_file(step)
    try:
        state = torch.load(path, map_location=device, weights_only=True, mmap=str(device) == "cpu")
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error}). Resume from another step.") from error
    if model_digest is not None and state.get("model_digest") != model_digest:
        text = "belongs to another recipe (data, SDE, network, objective or optimiser differ)"
        raise CheckpointError(f"{path}: {text}. Move it to the run it came from.")
    return state


def newest_good(folder: RunFolder, model_digest: str | None = None) -> tuple[int | None, list[Damaged]]:
    """The newest step whose checkpoint is whole, and the damaged ones above it.

    Raises:
        CheckpointError: a whole one belongs to another recipe, which no older one would mend.
    """
    step, damaged = newest_whole(folder)
    if step is not None and model_digest is not None:
        load(folder, step, model_digest=model_digest)
    return step, damaged


class _HashingFile:
    """A writable file that knows the size and checksum of what went through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        written = self._file.write(data)
        self.size += written
        return written

    def flush(self) -> None:
        self._file.flush()


def _why_not_written(path: Path, error: BaseException) -> str:
    cause = next((e for e in (error, error.__context__, error.__cause__) if isinstance(e, OSError)), None)
    if cause is not None and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        free = "Free space there, then `cldctl resume`"
        return f"{path}: no space left on the disk; the checkpoints before it are whole. {free}."
    fix = "Mend the file system, then `cldctl resume`"
    return f"{path}: the checkpoint could not be written ({cause or error}); those before it are whole. {fix}."
