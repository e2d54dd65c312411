"""Whether checkpoints are what their names and checksums promise. Loads no torch: the command line asks, too."""

import hashlib
from dataclasses import dataclass

from cld_core.errors import CheckpointError, NotFoundError

from .atomic import read_json
from .folder import RunFolder

FORMAT = 1


@dataclass(frozen=True)
class Damaged:
    """A checkpoint that cannot be used, and why; ``finished`` is false where its write was cut short."""

    step: int
    reason: str
    finished: bool = True

    @property
    def skipped(self) -> str:
        """A message: a newer checkpoint was not used."""
        return f"skipped the checkpoint of step {self.step}: {self.reason}"


def verify(folder: RunFolder, step: int) -> None:
    """Compare size and checksum of a checkpoint with its sidecar.

    Raises:
        NotFoundError: there is no checkpoint of this step.
        CheckpointError: it is damaged or from a newer version. Says how.
    """
    path = folder.checkpoint_file(step)
    sidecar = read_json(path.with_suffix(".json"))
    if sidecar is None and not path.exists():
        steps = ", ".join(map(str, folder.checkpoint_steps())) or "none"
        raise NotFoundError(f"{folder.path}: no checkpoint of step {step}. There are: {steps}.")
    fix = "Use another step, or the newest whole one by naming none"
    if sidecar is None or not {"format", "bytes", "sha256"} <= set(sidecar):
        raise CheckpointError(f"{path}: its sidecar {path.stem}.json is missing or unreadable. {fix}.")
    if sidecar["format"] != FORMAT:
        text = f"has format version {sidecar['format']}, this cldctl reads {FORMAT}. Install the version that wrote it."
        raise CheckpointError(f"{path}: {text}")
    if not path.exists():
        raise CheckpointError(f"{path}: missing, though its sidecar is there. {fix}.")
    size = path.stat().st_size
    if size != sidecar["bytes"]:
        raise CheckpointError(f"{path}: truncated ({size} bytes of {sidecar['bytes']}). {fix}.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sidecar["sha256"]:
        raise CheckpointError(f"{path}: damaged (its checksum is not the one it was written with). {fix}.")


def newest_whole(folder: RunFolder) -> tuple[int | None, list[Damaged]]:
    """The newest step whose checkpoint is whole, and the damaged ones above it."""
    damaged: list[Damaged] = []
    written = set(folder.checkpoint_steps())
    orphans = {int(path.stem.removeprefix("step_")) for path in folder.checkpoints.glob("step_*.pt")}
    for step in sorted(written | orphans, reverse=True):
        try:
            verify(folder, step)
        except NotFoundError:
            continue  # Cleared away by the training since it was listed.
        except CheckpointError as error:
            damaged.append(Damaged(step, str(error), finished=step in written))
            continue
        return step, damaged
    return None, damaged


def all_whole(folder: RunFolder) -> tuple[list[int], list[Damaged]]:
    """The steps whose checkpoints are whole, ascending, and the finished but damaged ones."""
    whole: list[int] = []
    damaged: list[Damaged] = []
    for step in folder.checkpoint_steps():
        try:
            verify(folder, step)
        except NotFoundError:
            continue  # Cleared away by the training since it was listed.
        except CheckpointError as error:
            damaged.append(Damaged(step, str(error)))
            continue
        whole.append(step)
    return whole, damaged
