"""The model of an evaluation, from the slim file of its checkpoint; whoever comes first makes that file."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cld_core.config import Recipe
from cld_core.errors import LeaseHeldError
from cld_core.files import parse_json, passes, replacing
from cld_core.model import Model
from cld_core.run import RunFolder
from cld_core.run.lease import Lease
from cld_core.sanitize import one_line

from . import slim
from .reports import checkpoint_checksum

# Seconds that a task waits for the one that makes the file before it reads the checkpoint itself.
PATIENCE_S = 600.0
POLL_S = 1.0
# Seconds without a sign of life after which another one makes it. Nothing is lost if both do.
_STALE_AFTER_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The averaged weights of one checkpoint, on a device.

    Attributes:
        checkpoint: its checksum.
        length: the relative length of the average; None for the usual one.
        averages: fingerprint of the stored averages that one of a length is made of.
    """

    run: RunFolder
    step: int
    checkpoint: str
    device: torch.device | str
    length: float | None = None
    averages: str | None = None

    @property
    def file(self) -> Path:
        return slim.file_of(self.run, self.step, self.length)

    def of_checkpoint(self) -> Model:
        # Whoever started the work was asked.
        device, length = str(self.device), self.length
        return Model.from_run(self.run.path, self.step, device, allow_plugin=True, ema_length=length)


def model(wanted: Wanted, should_stop: Callable[[], bool], *, shared: bool) -> Model | None:
    """The model; None if asked to stop while another task makes the file.

    Args:
        shared: others need the weights, too; otherwise no file is made.

    Raises:
        NotFoundError: neither the file nor the checkpoint is there.
        CheckpointError: the checkpoint is damaged.
        OSError: nothing can be read at this moment.
    """
    recipe = wanted.run.recipe()
    damaged: tuple[int, int] | None = None
    deadline = time.monotonic() + PATIENCE_S
    while True:
        seen = _mark(wanted.file)
        if seen is not None and seen != damaged:
            found = _read(wanted, recipe)
            if found is not None:
                return found
            damaged = seen
        if not shared or time.monotonic() > deadline:
            return wanted.of_checkpoint()
        if should_stop():
            return None
        try:
            made = _made_alone(wanted, recipe, damaged)
        except LeaseHeldError:
            time.sleep(POLL_S)
            continue
        if made is not None:
            return made


def _made_alone(wanted: Wanted, recipe: Recipe, damaged: tuple[int, int] | None) -> Model | None:
    """The model of the checkpoint, which leaves the file behind; None if another task has made it meanwhile.

    Raises:
        LeaseHeldError: another task is making it.
    """
    folder = slim.lease_of(wanted.run, wanted.step, wanted.length)
    try:
        folder.parent.mkdir(exist_ok=True)
        lease = Lease.acquire(folder, job_id=f"process {os.getpid()}", stale_after_s=_STALE_AFTER_S)
    except OSError as error:
        print(f"{folder}: not available ({one_line(error)}); reading the checkpoint instead", flush=True)
        return wanted.of_checkpoint()
    try:
        if _mark(wanted.file) not in (None, damaged):
            return None
        before = checkpoint_checksum(wanted.run, wanted.step)
        made = wanted.of_checkpoint()
        if before == checkpoint_checksum(wanted.run, wanted.step) == wanted.checkpoint:
            _write(wanted, recipe, made)
        return made
    finally:
        lease.release()


def _write(wanted: Wanted, recipe: Recipe, made: Model) -> None:
    """Write the file. Without it, each task reads the checkpoint."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in made.net.state_dict().items()}
    try:
        described = slim.described(wanted.checkpoint, recipe.model_digest(), digest(tensors), wanted.averages)
        if made.ema_error is not None:
            described["ema_error"] = repr(made.ema_error)
        if made.classes is not None:
            described["classes"] = json.dumps(made.classes.to_dict())
        content = save(tensors, described)
        for left in wanted.file.parent.glob(f".{wanted.file.name}.*.tmp"):
            left.unlink(missing_ok=True)
        with replacing(wanted.file) as file:
            file.write(content)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"{wanted.file}: not written ({one_line(error)}); tasks read the checkpoint instead", flush=True)
        return
    print(f"averaged weights of step {wanted.step}: {len(content) / 2**20:.1f} MiB in {wanted.file}", flush=True)


def _read(wanted: Wanted, recipe: Recipe) -> Model | None:
    """The model that a file holds; None if it is gone, damaged, or of another checkpoint.

    Raises:
        OSError: it cannot be read at this moment.
    """
    about = slim.about(wanted.file)
    found = (about.get("checkpoint"), about.get("model"), about.get("averages"))
    if found != (wanted.checkpoint, recipe.model_digest(), wanted.averages):
        return None
    try:
        tensors = _tensors(wanted.file)
        if digest(tensors) != about.get("weights"):
            raise ValueError("the digest of its tensors is another one")
        classes = parse_json(about["classes"]) if "classes" in about else None
        model = Model.of_tensors(recipe, tensors, step=wanted.step, device=wanted.device, classes=classes)
        model.path = wanted.run.path
        if wanted.length is not None:
            model.ema_length, model.ema_error = wanted.length, float(about["ema_error"])
        return model
    except FileNotFoundError:
        return None
    except Exception as error:
        if passes(error):
            raise
        print(f"{wanted.file}: damaged ({one_line(error)}); the checkpoint is read again", flush=True)
        return None


def _tensors(file: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(file, "pt") as content:
        return {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU: their names, kinds, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _mark(file: Path) -> tuple[int, int] | None:
    """Tells one version of a file from the next; None if there is none."""
    try:
        seen = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return seen.st_ino, seen.st_mtime_ns
