"""The tensors of checkpoints, snapshots of averages, and weights.

Files are written whole or not at all, those of checkpoints and snapshots in the background. They
are read with `weights_only`, as tensors on the CPU. `cld_core.run.checkpoints` has what needs no
torch.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from cld_core.errors import CheckpointError, NotFoundError, SaveError
from cld_core.files import parse_json, passes, pauses, replacing, system_error, write_json
from cld_core.records import to_plain
from cld_core.run import RunFolder
from cld_core.run import checkpoints as files
from cld_core.run.checkpoints import Content, Sidecar, StoredAverages, prune, verify, weights_file
from cld_core.sanitize import one_line

# The types of tensors that a network may have, as safetensors calls them.
KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_HALF_MAX = torch.finfo(torch.float16).max
# Seconds for which training continues while no checkpoint can be written.
_GIVE_UP_S = 1800.0
# The format of exported files.
FORMAT = "cldctl-weights/1"
# The key of the metadata that averaged weights beside a checkpoint have.
ABOUT = "cldctl"


# The state of a training: nested dictionaries and lists of tensors and plain values.
State = dict[str, Any]
# Tensors by name.
Tensors = Mapping[str, Tensor]
# Called right before a new file takes its place; raises if this process may not write.
Check = Callable[[], None]


class Writer:
    """Writes files of one kind without stopping the training.

    `save` copies the state into host memory and returns; a thread writes it to disk. At most one
    write is in flight: `save` waits for the one before. The memory of the copy is reused.

    A write that meets a temporary error (`passes`), such as a full disk, is repeated until the next
    state takes its place. Writing is given up after half an hour without a success, or after the
    time that `wait` allows.

    Args:
        what: the name of such a file in messages.
        store: writes a state of a step; raises SaveError.
    """

    def __init__(self, what: str, store: Callable[[int, State], None]) -> None:
        self._what = what
        self._store = store
        self._buffers: dict[tuple[str, ...], Tensor] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=what)
        self._writing: Future[None] | None = None
        self._on_gpu = False
        self._failing_since: float | None = None
        # When to stop repeating a write; the event ends a pause between two attempts.
        self._deadline = math.inf
        self._awake = threading.Event()

    @property
    def failed(self) -> bool:
        """Whether a write failed; `wait` raises the error."""
        writing = self._writing
        return writing is not None and writing.done() and writing.exception() is not None

    @property
    def is_busy(self) -> bool:
        """Whether a write is in flight."""
        return self._writing is not None and not self._writing.done()

    def save(self, step: int, state: State) -> None:
        """Start writing ``state``: nested dicts and lists of tensors and plain values.

        Tensors on GPUs are copied asynchronously, before any work that the caller queues next.

        Raises:
            SaveError: the write *before* this one failed for good.
        """
        self.abandon()
        copy = self._copy_of(state, ())
        ready = None
        if self._on_gpu:
            ready = torch.cuda.Event()
            ready.record()
        self._awake.clear()
        self._deadline = math.inf
        self._writing = self._pool.submit(self._write, step, copy, ready)

    def wait(self, within_s: float = 0.0) -> None:
        """Wait until nothing is in flight.

        Args:
            within_s: seconds for which a write that fails is still repeated.

        Raises:
            SaveError: the write failed. Earlier files are unchanged.
        """
        self._deadline = time.monotonic() + within_s
        self._awake.set()
        if self._writing is not None:
            done, _ = concurrent.futures.wait([self._writing])
            self._writing = None
            done.pop().result()

    def abandon(self) -> None:
        """Wait until nothing is in flight. A write that fails is logged, and not repeated.

        Raises:
            SaveError: the error is not a temporary one, or writes have failed for too long.
        """
        try:
            self.wait()
        except SaveError as error:
            if not passes(system_error(error)) or self._is_hopeless():
                raise
            print(f"the {self._what} of step {error.step} was not written", flush=True)

    def _copy_of(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Tensor):
            buffer = self._buffers.get(path)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                self._buffers[path] = buffer
            self._on_gpu |= value.is_cuda
            return buffer.copy_(value.detach(), non_blocking=value.is_cuda)
        if isinstance(value, dict):
            return {name: self._copy_of(inner, (*path, str(name))) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(
                self._copy_of(inner, (*path, str(i))) for i, inner in enumerate(value)
            )
        return value

    def _write(self, step: int, state: State, ready: "torch.cuda.Event | None") -> None:
        """Write until it succeeds, or until it is given up."""
        if ready is not None:
            ready.synchronize()
        for pause in pauses():
            try:
                self._store(step, state)
                break
            except SaveError as error:
                cause = system_error(error)
                if not passes(cause):
                    raise
                if self._failing_since is None:
                    self._failing_since = time.monotonic()
                    reason = getattr(cause, "strerror", None) or error
                    print(
                        f"the {self._what} of step {step} cannot be written yet ({reason}); "
                        "trying again",
                        flush=True,
                    )
                if time.monotonic() > self._deadline or self._is_hopeless():
                    raise
            self._awake.wait(pause)
            self._awake.clear()
        if self._failing_since is not None:
            print(
                f"the {self._what} of step {step} is written: the disk takes {self._what}s again",
                flush=True,
            )
            self._failing_since = None

    def _is_hopeless(self) -> bool:
        return (
            self._failing_since is not None and time.monotonic() - self._failing_since > _GIVE_UP_S
        )


def checkpoints(
    folder: RunFolder,
    *,
    keep: int,
    milestone: Callable[[int], bool] = lambda step: False,
    regular: Callable[[int], bool] = lambda step: True,
    check_owner: Check = lambda: None,
) -> Writer:
    """The writer of a run's checkpoints, which removes older ones.

    Args:
        keep, milestone, regular: the arguments of `run.checkpoints.prune`.
        check_owner: called right before a new file takes its place; raises if this process may not
            write.
    """

    def store(step: int, state: State) -> None:
        write(folder, step, state, check_owner=check_owner)
        try:
            prune(folder, keep=keep, milestone=milestone, regular=regular)
        except OSError as error:
            print(
                f"older checkpoints could not be removed ({error}); the next save will", flush=True
            )

    return Writer("checkpoint", store)


def snapshots(
    folder: RunFolder, *, half: bool = False, check_owner: Check = lambda: None
) -> Writer:
    """The writer of snapshots of a run's averages, which stay when checkpoints are removed.

    Args:
        half: store float16 where the values fit.
        check_owner: called right before a new file takes its place, see `checkpoints`.
    """

    def store(step: int, state: State) -> None:
        folder.averages.mkdir(exist_ok=True)
        stored = _halved(state) if half else state
        _write(folder.snapshot_file(step), "snapshot", step, stored, check_owner)

    return Writer("snapshot", store)


def _halved(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _halved(inner) for name, inner in value.items()}
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    fits = bool((value.abs() <= _HALF_MAX).all())
    return value.half() if fits else value


def write(
    folder: RunFolder,
    step: int,
    state: State,
    *,
    check_owner: Check = lambda: None,
) -> None:
    """Write the files of a checkpoint, the sidecar last.

    Args:
        state: the result of `train.step.Trainer.state_dict`. Its ``ema`` has the averages of the
            trained tensors of ``model``, which are written to a file of their own, together with
            the tensors that are not trained.

    Raises:
        SaveError: the disk is full or broken. No partial file is left.
    """
    ema = state["ema"]
    without_averages = {
        **state,
        "ema": {"updates": ema["updates"], "names": list(ema["average"])},
    }
    about = {name: state[name] for name in ("classes", "form") if name in state}
    tensors = {**state["model"], **ema["average"]}
    averaged = (weights_file(folder, step), tensors, {ABOUT: json.dumps(about)})
    path = folder.checkpoint_file(step)
    _write(path, "checkpoint", step, without_averages, check_owner, averaged)


def _write(
    path: Path,
    what: str,
    step: int,
    state: State,
    check_owner: Check,
    averaged: tuple[Path, Tensors, Mapping[str, str]] | None = None,
) -> None:
    """Write a state, averaged weights beside it if there are any, and the sidecar."""
    sidecar = path.with_suffix(".json")
    began = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_replacing(path, sidecar, check_owner))
            weights = None
            # Declared to take an IO[bytes], but torch's zip writer only calls write and flush.
            torch.save({**state, "step": step}, file)  # type: ignore[arg-type]
            if averaged is not None:
                target, tensors, about = averaged
                weights = stack.enter_context(_replacing(target, sidecar, check_owner))
                write_weights(weights, tensors, about)
        content = Sidecar(
            format=files.FORMAT,
            step=step,
            model=state.get("model_digest", ""),
            state=file.content,
            weights=None if weights is None else weights.content,
            seconds=round(time.monotonic() - began, 3),
            averages=StoredAverages.of(state),
        )
        write_json(sidecar, to_plain(content, sparse=True))
    except (OSError, RuntimeError) as error:
        # torch reports a write that the system refused as a RuntimeError of its zip writer.
        cause = system_error(error)
        if cause is not None and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SaveError(
                f"{path}: no space left on the disk; earlier {what}s are intact. Free some space, "
                "then `cldctl resume`.",
                step,
            ) from error
        raise SaveError(
            f"{path}: the {what} could not be written ({one_line(cause or error)}); earlier ones "
            "are intact. Fix the file system, then `cldctl resume`.",
            step,
        ) from error


def write_weights(
    file: "IO[bytes] | _HashingFile", tensors: Tensors, about: Mapping[str, str]
) -> None:
    """Write tensors, of any device, as safetensors with metadata.

    The library copies all of them twice in memory first, which takes longer than writing them, and
    writes the metadata in random order.
    """
    # Tensors of the largest numbers first, so that each begins at a multiple of its numbers' size.
    ordered = sorted(tensors.items(), key=lambda entry: -entry[1].element_size())
    header: dict[str, Any] = {"__metadata__": dict(about)}
    end = 0
    for name, tensor in ordered:
        begin = end
        end += tensor.nbytes
        header[name] = {
            "dtype": KINDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


@contextlib.contextmanager
def _replacing(target: Path, sidecar: Path, check_owner: Check) -> "Iterator[_HashingFile]":
    """A file that replaces ``target``; its checksum goes into a sidecar."""
    with replacing(target) as file:
        hashing = _HashingFile(file)
        yield hashing
        check_owner()
        # The checksums of an earlier checkpoint of this step are not those of this file.
        sidecar.unlink(missing_ok=True)


class _HashingFile:
    """A writable file that keeps the size and checksum of its content."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

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


def load(folder: RunFolder, step: int, *, model_digest: str | None = None) -> State:
    """The state of one verified checkpoint, on the CPU.

    Its tensors are mapped, and read when they are used.

    Args:
        model_digest: the recipe's `Recipe.model_digest`; a checkpoint of another model is refused.

    Raises:
        NotFoundError: there is no checkpoint of this step.
        CheckpointError: it is damaged, from another version, or belongs to another recipe.
        OSError: it cannot be read at this moment.
    """
    verify(folder, step, model_digest=model_digest)
    path = folder.checkpoint_file(step)
    state = read_tensors(path)
    weights = averaged_weights(folder, step).tensors
    try:
        # Tensors that are not trained have no average.
        average = {name: weights[name] for name in state["ema"]["names"]}
        return {**state, "ema": {"updates": state["ema"]["updates"], "average": average}}
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: does not go with its averaged weights ({one_line(error)}). Resume from "
            "another step."
        ) from error


def read_tensors(path: Path) -> State:
    """The dictionary in a verified file of `torch.save`, on the CPU.

    Its tensors are mapped, and read when they are used.

    Raises:
        CheckpointError: it is not a dictionary of tensors and plain values.
        OSError: it cannot be read at this moment.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        if passes(error):  # The file may be intact.
            raise
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({one_line(error)}). Resume from another step."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path}: holds a {type(state).__name__} instead of the state of a run. Resume from "
            "another step."
        )
    return state


class Weights:
    """A safetensors file of weights.

    Attributes:
        about: its metadata.
        tensors: by name, on the CPU; mapped, and read when they are used.
    """

    def __init__(self, content: Any) -> None:
        self.about: dict[str, str] = content.metadata() or {}
        names = content.keys()
        self.tensors: Tensors = {name: content.get_tensor(name) for name in names}

    def described(self, name: str) -> dict[str, Any]:
        """An object in the metadata.

        Raises:
            ValueError: it is missing, or not an object in JSON.
        """
        content = parse_json(self.about.get(name, ""))
        if not isinstance(content, dict):
            raise ValueError(f"its {name} is not a JSON object")
        return content


def averaged_weights(folder: RunFolder, step: int, length: float | None = None) -> Weights:
    """The averaged weights beside a checkpoint. Checksums are not compared here.

    Raises:
        CheckpointError: there are none of this length, or the file is damaged.
        OSError: it cannot be read at this moment.
    """
    return _read(weights_file(folder, step, length), "Use another step")


def exported_weights(file: Path) -> Weights:
    """The weights in a file that `cldctl export` wrote.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: the file is of another kind, or damaged.
    """
    if not file.is_file():
        raise NotFoundError(f"{file}: no such file. `cldctl export` writes one.")
    weights = _read(file, "Export it again: `cldctl export`")
    if (other := weights.about.get("format", "none")) != FORMAT:
        raise CheckpointError(
            f"{file}: its format is {one_line(other, 40)}, not {FORMAT}. Use a file that "
            "`cldctl export` wrote."
        )
    return weights


def _read(file: Path, fix: str) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            return Weights(content)
    except (SafetensorError, OSError) as error:
        if passes(error):
            raise
        raise CheckpointError(
            f"{file}: cannot be read as safetensors ({one_line(error)}). {fix}."
        ) from error


def tensors_digest(tensors: Tensors) -> str:
    """SHA-256 of tensors on the CPU: their names, kinds, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
