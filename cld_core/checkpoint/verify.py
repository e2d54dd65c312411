"""Whether checkpoints are what their sidecars promise. Loads no torch: the command line asks, too."""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cld_core.digests import checksum
from cld_core.errors import CheckpointError, CldError, NotFoundError
from cld_core.run import RunFolder
from cld_core.run.atomic import write_json
from cld_core.small_files import read_object

FORMAT = 1
# Steps, bytes and seconds beyond it are nonsense.
_MOST = 2**60
_NAME = re.compile(r"step_([0-9]{8,18})\.pt")
# A pipe, a folder or a device in the place of a checkpoint is damage; anything else may pass, such as a server that is
# away for a while.
_OTHER_KINDS = (errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.ELOOP)
_FIX = "Use another step, or name none to use the newest intact one"


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What the JSON file beside a checkpoint promises.

    Attributes:
        bytes: size of the checkpoint.
        sha256: its checksum.
        seconds: how long saving it took.
    """

    format: int
    step: int
    bytes: int
    sha256: str
    seconds: float = 0.0

    @classmethod
    def read(cls, path: Path) -> "Sidecar | None":
        """The sidecar in a file; None if it is missing, unreadable, or says something that cannot be."""
        content = read_object(path)
        form, step, size = (_whole(content.get(name)) for name in ("format", "step", "bytes"))
        sha256, seconds = content.get("sha256"), content.get("seconds", 0.0)
        if form is None or step is None or size is None or not isinstance(sha256, str):
            return None
        if not isinstance(seconds, int | float) or not 0 <= seconds < _MOST:
            return None
        return cls(format=form, step=step, bytes=size, sha256=sha256, seconds=float(seconds))

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST else None


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint that cannot be used, and why; ``finished`` is false if it was never written completely."""

    step: int
    reason: str
    finished: bool = True

    @property
    def skipped(self) -> str:
        """A message: this checkpoint was not used."""
        return f"skipped the checkpoint of step {self.step}: {self.reason}"


def sidecar_of(folder: RunFolder, step: int) -> Sidecar | None:
    """The sidecar of a checkpoint; None if it is missing or unreadable."""
    return Sidecar.read(folder.checkpoint_file(step).with_suffix(".json"))


def slowest_save_s(folder: RunFolder) -> float | None:
    """The most seconds that saving one of the run's checkpoints took; None without checkpoints."""
    sidecars = (sidecar_of(folder, step) for step in folder.checkpoint_steps())
    return max((sidecar.seconds for sidecar in sidecars if sidecar is not None), default=None)


def verify(folder: RunFolder, step: int) -> None:
    """Compare size and checksum of a checkpoint with its sidecar.

    Raises:
        NotFoundError: there is no checkpoint of this step.
        CheckpointError: it is damaged or from another version. Says how.
        CldError: it cannot be read now.
    """
    path = folder.checkpoint_file(step)
    sidecar = sidecar_of(folder, step)
    if sidecar is None and not os.path.lexists(path):
        steps = ", ".join(map(str, folder.checkpoint_steps())) or "none"
        raise NotFoundError(f"{folder.path}: no checkpoint of step {step}. Existing ones: {steps}.")
    if sidecar is None:
        raise CheckpointError(f"{path}: its sidecar {path.stem}.json is missing or unreadable. {_FIX}.")
    if sidecar.format != FORMAT:
        text = f"has format version {sidecar.format}, this cldctl reads {FORMAT}. Install the version that wrote it."
        raise CheckpointError(f"{path}: {text}")
    try:
        size = path.stat().st_size
        if size != sidecar.bytes:
            raise CheckpointError(f"{path}: truncated ({size} bytes of {sidecar.bytes}). {_FIX}.")
        found = checksum(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing, though its sidecar exists. {_FIX}.") from error
    except OSError as error:
        if error.errno in _OTHER_KINDS:
            raise CheckpointError(f"{path}: damaged (it is not a regular file). {_FIX}.") from error
        text = f"cannot be read ({error.strerror}). Check the disk and the permissions, or use another step."
        raise CldError(f"{path}: {text}") from error
    if found != sidecar.sha256:
        raise CheckpointError(f"{path}: damaged (its checksum differs from the one in its sidecar). {_FIX}.")


def newest_whole(folder: RunFolder) -> tuple[int | None, list[DamagedCheckpoint]]:
    """The newest step whose checkpoint is intact, and the damaged ones above it.

    Raises:
        CldError: a checkpoint cannot be read now; an older one would lose the steps since.
    """
    # Files of other names, such as copies that somebody made, are nobody's checkpoints.
    names = [path.name for path in folder.checkpoints.glob("step_*.pt")]
    orphans = {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}
    damaged: list[DamagedCheckpoint] = []
    for entry in _verified(folder, sorted(orphans.union(folder.checkpoint_steps()), reverse=True)):
        if not isinstance(entry, DamagedCheckpoint):
            return entry, damaged
        damaged.append(entry)
    return None, damaged


def all_whole(folder: RunFolder) -> tuple[list[int], list[DamagedCheckpoint]]:
    """The steps whose checkpoints are intact, ascending, and the completely written but damaged ones."""
    entries = list(_verified(folder, folder.checkpoint_steps()))
    damaged = [entry for entry in entries if isinstance(entry, DamagedCheckpoint)]
    return [entry for entry in entries if not isinstance(entry, DamagedCheckpoint)], damaged


def _verified(folder: RunFolder, steps: Iterable[int]) -> Iterator[int | DamagedCheckpoint]:
    """For each step itself, or what is wrong with its checkpoint."""
    finished = set(folder.checkpoint_steps())
    for step in steps:
        try:
            verify(folder, step)
        except NotFoundError:
            continue  # Training has removed it since it was listed.
        except CheckpointError as error:
            yield DamagedCheckpoint(step, str(error), finished=step in finished)
        else:
            yield step
