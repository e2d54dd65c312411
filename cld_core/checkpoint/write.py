"""Writing checkpoints, snapshots of averages, and weights: whole or not at all; the first two in the background."""

import contextlib
import errno
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from cld_core.errors import SaveError
from cld_core.files import passes, pauses, replacing
from cld_core.run import RunFolder
from cld_core.sanitize import one_line

from .files import FORMAT, Content, Sidecar, StoredAverages, prune, weights_file
from .load import ABOUT, KINDS

_HALF_MAX = torch.finfo(torch.float16).max
# Seconds for which training goes on although no checkpoint can be written.
PATIENCE_S = 1800.0


class CheckpointWriter:
    """Writes checkpoints of one run without stopping the training.

    `save` copies the state into host memory and returns; a thread writes it to disk. A caller that does not change the
    state before `settled` need not even wait for the copy. At most one write is in flight: `save` waits for the one
    before. The memory of the copy is reused.

    A write that meets a fault that passes (`passes`), such as a full disk, is repeated: until the next snapshot
    takes its place, or for `PATIENCE_S` seconds without any success, or after `wait` as long as that allows.

    Args:
        folder: the run.
        keep: how many of the newest checkpoints stay.
        milestone: whether the checkpoint of a step is kept forever.
        check_owner: called right before the new file takes its place; raises if this process may not write.
    """

    # What messages call one file.
    what: ClassVar[str] = "checkpoint"

    def __init__(
        self,
        folder: RunFolder,
        *,
        keep: int,
        milestone: Callable[[int], bool] = lambda step: False,
        check_owner: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._keep, self._milestone, self._check_owner = folder, keep, milestone, check_owner
        self._buffers: dict[tuple[str, ...], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._began = 0.0
        self._copied = threading.Event()
        self._copied.set()
        self._error: BaseException | None = None
        self._failing_since: float | None = None
        # Until when a write may be repeated; the event wakes one that pauses.
        self._deadline = float("inf")
        self._replaced, self._awake = False, threading.Event()

    @property
    def failed(self) -> bool:
        """Whether a write failed; `wait` raises the error."""
        return self._error is not None

    @property
    def busy_s(self) -> float:
        """How long the write in flight has taken so far, seconds; 0 if there is none."""
        return time.monotonic() - self._began if self._thread is not None and self._thread.is_alive() else 0.0

    def save(self, step: int, state: dict[str, Any], *, held_still: bool = False) -> None:
        """Take a snapshot of ``state`` (nested dicts and lists of tensors and plain values) and start writing it.

        Args:
            held_still: the caller changes none of the tensors before `settled` returns. Then the thread copies those
                on the CPU while the caller computes; those on GPUs are copied asynchronously anyway.

        Raises:
            SaveError: the write *before* this one failed for good.
        """
        self.abandon()
        pairs: list[tuple[Tensor, Tensor]] = []
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
        self._awake.clear()
        self._replaced, self._deadline = False, float("inf")
        self._thread = threading.Thread(target=self._write, args=(step, snapshot, pairs, ready), name="checkpoint")
        self._began = time.monotonic()
        self._thread.start()

    def settled(self) -> None:
        """Wait until the last snapshot is taken: from then on the state may change."""
        self._copied.wait()

    def wait(self, within_s: float = 0.0) -> None:
        """Wait until nothing is in flight. A write that fails is repeated for at most ``within_s`` seconds more.

        Raises:
            SaveError: the write failed. The checkpoints before it are untouched.
        """
        self._deadline = time.monotonic() + within_s
        self._awake.set()
        self._join()

    def abandon(self) -> None:
        """Wait until nothing is in flight. A write that fails is not repeated, and nobody is told but the log.

        Raises:
            SaveError: it failed for another reason than a fault that passes, or for too long.
        """
        self._replaced = True
        self._awake.set()
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _snapshot(self, value: Any, path: tuple[str, ...], pairs: list[tuple[Tensor, Tensor]]) -> Any:
        """``value`` with buffers for its tensors; adds the pending copies to ``pairs``."""
        if isinstance(value, Tensor):
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
        pairs: list[tuple[Tensor, Tensor]],
        ready: "torch.cuda.Event | None",
    ) -> None:
        try:
            try:
                _copy(pairs)
            finally:
                self._copied.set()
            if ready is not None:
                ready.synchronize()
            self._repeat(step, snapshot)
        except BaseException as error:
            self._error = error

    def _repeat(self, step: int, snapshot: dict[str, Any]) -> None:
        """Write until it succeeds, or is not worth another try."""
        for pause in pauses(first_s=0.25):
            try:
                self._store(step, snapshot)
            except SaveError as error:
                if not passes(_system_error(error)):
                    raise
                self._judge(step, error)
                if self._replaced:
                    print(f"the {self.what} of step {step} was not written", flush=True)
                    return
            else:
                break
            self._awake.wait(pause)
            self._awake.clear()
        if self._failing_since is not None:
            print(f"the {self.what} of step {step} is written: the disk takes {self.what}s again", flush=True)
            self._failing_since = None
        self._prune()

    def _judge(self, step: int, error: SaveError) -> None:
        """Raise the error of a write if it was the last try."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            reason = getattr(_system_error(error), "strerror", None) or error
            print(f"the {self.what} of step {step} cannot be written yet ({reason}); trying again", flush=True)
        if now > self._deadline or now - self._failing_since > PATIENCE_S:
            raise error

    def _store(self, step: int, snapshot: dict[str, Any]) -> None:
        write(self._folder, step, snapshot, check_owner=self._check_owner)

    def _prune(self) -> None:
        try:
            prune(self._folder, keep=self._keep, milestone=self._milestone)
        except OSError as error:
            print(f"older checkpoints could not be removed ({error}); the next save will", flush=True)


class SnapshotWriter(CheckpointWriter):
    """Writes snapshots of the averages of a run: separate files that are kept when checkpoints are removed.

    Args:
        half: store float16 where the values fit.
    """

    what: ClassVar[str] = "snapshot"

    def __init__(
        self, folder: RunFolder, *, half: bool = False, check_owner: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(folder, keep=1, check_owner=check_owner)
        self._half = half

    def _store(self, step: int, snapshot: dict[str, Any]) -> None:
        self._folder.averages.mkdir(exist_ok=True)
        content, path = _halved(snapshot) if self._half else snapshot, self._folder.snapshot_file(step)
        began = time.monotonic()
        with _reported(path, step, self.what):
            with _replacing(path, path, self._check_owner) as file:
                _write_state(file, step, content)
            _vouch(path, step, content, began, file.content)

    def _prune(self) -> None:
        """Snapshots stay."""


def _halved(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.half() if value.is_floating_point() and bool((value.abs() <= _HALF_MAX).all()) else value
    return {name: _halved(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in pairs:
        buffer.copy_(value, non_blocking=value.is_cuda)


def write(
    folder: RunFolder, step: int, state: dict[str, Any], *, check_owner: Callable[[], None] = lambda: None
) -> None:
    """Write the files of a checkpoint, the sidecar last.

    Args:
        state: as `train.step.Trainer.state_dict`: ``ema`` holds the averages of those tensors of ``model`` that are
            trained. They are written to a file of their own, with the others, which have none.

    Raises:
        SaveError: the disk is full or broken. No partial file is left.
    """
    path, ema, began = folder.checkpoint_file(step), state["ema"], time.monotonic()
    rest = {**state, "ema": {"updates": ema["updates"], "names": list(ema["average"])}}
    about = {"classes": state["classes"]} if "classes" in state else {}
    with _reported(path, step, CheckpointWriter.what):
        target = weights_file(folder, step)
        with _replacing(path, path, check_owner) as file, _replacing(target, path, check_owner) as weights:
            _write_state(file, step, rest)
            write_weights(weights, {**state["model"], **ema["average"]}, {ABOUT: json.dumps(about)})
        _vouch(path, step, state, began, file.content, weights.content)


def _write_state(file: "_HashingFile", step: int, state: dict[str, Any]) -> None:
    # Declared to take an IO[bytes], but torch's zip writer calls only write and flush of a file object.
    torch.save({**state, "step": step}, file)  # type: ignore[arg-type]


def _vouch(
    path: Path, step: int, state: dict[str, Any], began: float, content: Content, weights: Content | None = None
) -> None:
    """Write the sidecar of a state at ``path``."""
    sidecar = Sidecar(
        format=FORMAT,
        step=step,
        model=state.get("model_digest", ""),
        state=content,
        weights=weights,
        seconds=round(time.monotonic() - began, 3),
        averages=StoredAverages.of(state),
    )
    sidecar.write(path.with_suffix(".json"))


def write_weights(file: "IO[bytes] | _HashingFile", tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors, from whatever device, as safetensors with some metadata.

    The library would copy all of them twice in memory first, which takes longer than to write them, and orders the
    metadata by chance.
    """
    # The largest numbers first, so that each is where its size is a divisor.
    ordered = sorted(tensors.items(), key=lambda entry: -entry[1].element_size())
    header: dict[str, Any] = {"__metadata__": dict(about)}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


@contextlib.contextmanager
def _replacing(target: Path, tensors: Path, check_owner: Callable[[], None]) -> "Iterator[_HashingFile]":
    """A file that replaces ``target``, one of a checkpoint whose state is in ``tensors``."""
    with replacing(target) as file:
        hashing = _HashingFile(file)
        yield hashing
        check_owner()
        # That of an earlier checkpoint of this step, if there is one, does not vouch for this file.
        tensors.with_suffix(".json").unlink(missing_ok=True)


@contextlib.contextmanager
def _reported(path: Path, step: int, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch reports a write that the system refused as a RuntimeError of its zip writer.
        raise SaveError(_why_not_written(path, error, what), step) from error


class _HashingFile:
    """A writable file that knows the size and checksum of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self._size = file, hashlib.sha256(), 0

    @property
    def content(self) -> Content:
        return Content(self._size, self._digest.hexdigest())

    def write(self, data: Any) -> int:
        self._digest.update(data)
        written = self._file.write(data)
        self._size += written
        return written

    def flush(self) -> None:
        self._file.flush()


def _system_error(error: BaseException | None) -> OSError | None:
    """The error of the system that an error is, or was raised for."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _why_not_written(path: Path, error: BaseException, what: str) -> str:
    cause = _system_error(error)
    if cause is not None and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "Free some space, then `cldctl resume`"
        return f"{path}: no space left on the disk; earlier {what}s are intact. {fix}."
    fix = "Fix the file system, then `cldctl resume`"
    return f"{path}: the {what} could not be written ({one_line(cause or error)}); earlier ones are intact. {fix}."
