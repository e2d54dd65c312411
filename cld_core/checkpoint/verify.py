"""Whether checkpoints are what their sidecars promise. Loads no torch: the command line asks, too."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cld_core.codec import real, whole
from cld_core.config.ema import LONGEST
from cld_core.digests import checksum
from cld_core.errors import CheckpointError, CldError, NotFoundError
from cld_core.files import NO_FILE, existing_object, passes, write_json
from cld_core.run import RunFolder

FORMAT = 1
_FIX = "Use another step, or name none to use the newest intact one"


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What the JSON file beside a checkpoint promises.

    Attributes:
        bytes: size of the checkpoint.
        sha256: its checksum.
        seconds: how long saving it took.
        averages: the power-function averages in it; None if there are none.
    """

    format: int
    step: int
    bytes: int
    sha256: str
    seconds: float = 0.0
    averages: "StoredAverages | None" = None

    @classmethod
    def read(cls, path: Path) -> "Sidecar | None":
        """The sidecar in a file; None if it is missing, damaged, or says something that cannot be.

        Raises:
            OSError: nobody knows, because the file cannot be read.
        """
        content = existing_object(path) or {}
        form, step, size = (whole(content.get(name)) for name in ("format", "step", "bytes"))
        sha256, seconds = content.get("sha256"), real(content.get("seconds", 0.0))
        if form is None or step is None or size is None or not isinstance(sha256, str):
            return None
        if seconds is None or seconds < 0:
            return None
        averages = StoredAverages.read(content.get("averages"))
        return cls(format=form, step=step, bytes=size, sha256=sha256, seconds=float(seconds), averages=averages)

    def write(self, path: Path) -> None:
        content = asdict(self)
        if self.averages is None:
            del content["averages"]
        write_json(path, content)


@dataclass(frozen=True)
class StoredAverages:
    """What power-function averages a file has: see `averages.tracked.PowerAverages`."""

    lengths: tuple[float, ...]
    began: int
    updates: int

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "StoredAverages | None":
        """Those of a state of training; None if there are none, or none that has taken a step."""
        power = state.get("power")
        if not power or power["updates"] < 1:
            return None
        return cls(tuple(power["lengths"]), power["began"], power["updates"])

    @classmethod
    def read(cls, content: Any) -> "StoredAverages | None":
        """Those that a sidecar names; None if there are none, or they cannot be."""
        if not isinstance(content, dict) or not isinstance(content.get("lengths"), list):
            return None
        lengths = [real(length) for length in content["lengths"]]
        began, updates = whole(content.get("began")), whole(content.get("updates"))
        if began is None or began < 0 or updates is None or updates < 1:
            return None
        good = tuple(float(length) for length in lengths if length is not None and 0 < length < LONGEST)
        return cls(good, began, updates) if good and len(good) == len(lengths) else None


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
    """The sidecar of a checkpoint; None if it is missing or damaged.

    Raises:
        OSError: nobody knows, because the file cannot be read.
    """
    return Sidecar.read(folder.checkpoint_file(step).with_suffix(".json"))


def slowest_save_s(folder: RunFolder) -> float | None:
    """The most seconds that saving one of the run's checkpoints took; None without checkpoints."""
    slowest = None
    for step in folder.checkpoint_steps():
        with contextlib.suppress(OSError):
            if (sidecar := sidecar_of(folder, step)) is not None:
                slowest = max(sidecar.seconds, slowest or 0.0)
    return slowest


def verify(folder: RunFolder, step: int) -> None:
    """Compare size and checksum of a checkpoint with its sidecar.

    Raises:
        NotFoundError: there is no checkpoint of this step.
        CheckpointError: it is damaged or from another version. Says how.
        CldError: this user may not read it.
        OSError: it cannot be read at this moment, which says nothing about it.
    """
    path = folder.checkpoint_file(step)
    try:
        _verify(folder, path, step)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing, though its sidecar exists. {_FIX}.") from error
    except OSError as error:
        if passes(error):
            raise
        if error.errno in NO_FILE:
            raise CheckpointError(f"{path}: damaged (it is not a regular file). {_FIX}.") from error
        text = f"cannot be read ({error.strerror}). Check the disk and the permissions, or use another step."
        raise CldError(f"{path}: {text}") from error


def _verify(folder: RunFolder, path: Path, step: int) -> None:
    sidecar = sidecar_of(folder, step)
    if sidecar is None:
        try:
            path.lstat()
        except FileNotFoundError as error:
            steps = ", ".join(map(str, folder.checkpoint_steps())) or "none"
            raise NotFoundError(f"{folder.path}: no checkpoint of step {step}. Existing ones: {steps}.") from error
        raise CheckpointError(f"{path}: its sidecar {path.stem}.json is missing or unreadable. {_FIX}.")
    if sidecar.format != FORMAT:
        text = f"has format version {sidecar.format}, this cldctl reads {FORMAT}. Install the version that wrote it."
        raise CheckpointError(f"{path}: {text}")
    if (problem := mismatch(path, sidecar)) is not None:
        raise CheckpointError(f"{path}: {problem}. {_FIX}.")


def mismatch(path: Path, sidecar: Sidecar) -> str | None:
    """How a file differs from what its sidecar promises; None if it does not.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size != sidecar.bytes:
        return f"truncated ({size} bytes of {sidecar.bytes})"
    if checksum(path) != sidecar.sha256:
        return "damaged (its checksum differs from the one in its sidecar)"
    return None


def newest_whole(folder: RunFolder) -> tuple[int | None, list[DamagedCheckpoint]]:
    """The newest step whose checkpoint is intact, and the damaged ones above it.

    Raises:
        CldError: this user may not read a checkpoint.
        OSError: a checkpoint, or their list, cannot be read at this moment. An older one would lose the steps since.
    """
    damaged: list[DamagedCheckpoint] = []
    for entry in _verified(folder, reversed(folder.listed_steps(unfinished=True))):
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
    finished = set(folder.listed_steps())
    for step in steps:
        try:
            verify(folder, step)
        except NotFoundError:
            continue  # Training has removed it since it was listed.
        except CheckpointError as error:
            yield DamagedCheckpoint(step, str(error), finished=step in finished)
        else:
            yield step
