"""Writing checkpoints: in the background, and whole or not at all."""

import errno
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from cld_core.errors import SaveError
from cld_core.run import RunFolder
from cld_core.run.atomic import replacing

from .prune import prune
from .verify import FORMAT, Sidecar


class CheckpointWriter:
    """Writes checkpoints of one run without stopping the training.

    `save` copies the state into host memory and returns; a thread writes it to disk. A caller that does not change the
    state before `settled` need not even wait for the copy. At most one write is in flight: `save` waits for the one
    before. The memory of the copy is reused.

    Args:
        folder: the run.
        keep: how many of the newest checkpoints stay.
        milestone: whether the checkpoint of a step is kept forever.
        check_owner: called right before the new file takes its place; raises if this process may not write.
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
        """Whether a write failed; `wait` raises the error."""
        return self._error is not None

    def save(self, step: int, state: dict[str, Any], *, held_still: bool = False) -> None:
        """Take a snapshot of ``state`` (nested dicts and lists of tensors and plain values) and start writing it.

        Args:
            held_still: the caller changes none of the tensors before `settled` returns. Then the thread copies those
                on the CPU while the caller computes; those on GPUs are copied asynchronously anyway.

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
        """Wait until the last snapshot is taken: from then on the state may change."""
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
        """``value`` with buffers for its tensors; adds the pending copies to ``pairs``."""
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
        SaveError: the disk is full or broken. No partial file is left.
    """
    path, begin = folder.checkpoint_file(step), time.monotonic()
    try:
        with replacing(path) as file:
            hashing = _HashingFile(file)
            # Declared to take an IO[bytes], but torch's zip writer calls only write and flush of a file object.
            torch.save({**state, "format": FORMAT, "step": step}, hashing)  # type: ignore[arg-type]
            check_owner()
        sidecar = Sidecar(
            format=FORMAT,
            step=step,
            bytes=hashing.size,
            sha256=hashing.digest.hexdigest(),
            seconds=round(time.monotonic() - begin, 3),
        )
        sidecar.write(path.with_suffix(".json"))
    except (OSError, RuntimeError) as error:
        # torch reports a write that the system refused as a RuntimeError of its zip writer.
        raise SaveError(_why_not_written(path, error), step) from error
    return path


class _HashingFile:
    """A writable file that knows the size and checksum of what was written to it."""

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
        fix = "Free some space, then `cldctl resume`"
        return f"{path}: no space left on the disk; earlier checkpoints are intact. {fix}."
    fix = "Fix the file system, then `cldctl resume`"
    return f"{path}: the checkpoint could not be written ({cause or error}); earlier ones are intact. {fix}."
