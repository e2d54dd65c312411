"""The slim file of a checkpoint: its averaged weights alone, for the many tasks that evaluate it. Loads no torch.

evals/weights/step_00010000.safetensors     the weights; in its header, the checkpoint that they are of and their digest
evals/weights/step_00010000.lease/          who makes it (`run.lease`)
evals/weights/step_00010000_ema-0.05.*      the same of the average of a length (`cld_core.averages`)

A checkpoint holds the weights, their average and the optimiser's moments, and its checksum is one of all of it. The
first task that needs the averages makes this file, and every task compares the digest of what it reads. It is a copy
that can be made again, and is removed when no evaluation of its step is left (`clear`).
"""

import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any

from cld_core.files import NO_FILE, opened, parse_json
from cld_core.run import RunFolder

FORMAT = "cldctl-slim/1"
# Names and shapes of the tensors of a large network take some hundred kilobytes.
_LONGEST_HEADER = 16 * 2**20
# A file or lease of a step, also a temporary one.
_NAME = re.compile(r"\.?step_([0-9]{8,18})[._]")


def folder_of(run: RunFolder) -> Path:
    return run.evals / "weights"


def file_of(run: RunFolder, step: int, length: float | None = None) -> Path:
    """The file of the averaged weights of a step: of the usual average, or of one of a relative length."""
    return folder_of(run) / f"{_stem(step, length)}.safetensors"


def lease_of(run: RunFolder, step: int, length: float | None = None) -> Path:
    return folder_of(run) / f"{_stem(step, length)}.lease"


def _stem(step: int, length: float | None) -> str:
    return f"step_{step:08d}" if length is None else f"step_{step:08d}_ema-{length!r}"


def about(file: Path) -> dict[str, str]:
    """What the header of a slim file says; empty if there is none, or it is damaged.

    Raises:
        OSError: it cannot be read at this moment.
    """
    try:
        with opened(file) as content:
            (length,) = struct.unpack("<Q", content.read(8))
            header = parse_json(content.read(length)) if length <= _LONGEST_HEADER else None
    except (struct.error, ValueError):
        return {}
    except OSError as error:
        if error.errno in NO_FILE:
            return {}
        raise
    described: Any = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        return {}
    return {name: value for name, value in described.items() if isinstance(value, str)}


def checkpoint_of(run: RunFolder, step: int, length: float | None = None) -> str | None:
    """The checksum of the checkpoint that the slim file of a step was made of; None without one.

    Raises:
        OSError: as `about`.
    """
    return about(file_of(run, step, length)).get("checkpoint")


def is_needed(run: RunFolder, step: int, *, by_others_than: str = "") -> bool:
    """Whether an evaluation of this step, maybe other than the one of a name, has no report yet."""
    # Stops at the first: a sweep has thousands of evaluations.
    part = f"-{step:08d}-"
    return any(
        part in name and name != by_others_than and not os.path.exists(run.evals / name / "report.json")
        for name in os.listdir(run.evals)
    )


def clear(run: RunFolder) -> None:
    """Remove the slim files that no evaluation needs any more. What cannot be removed stays."""
    try:
        names = sorted(os.listdir(folder_of(run)))
        for name in names:
            found = _NAME.match(name)
            if found is not None and not is_needed(run, int(found[1])):
                path = folder_of(run) / name
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        folder_of(run).rmdir()
    except OSError:
        return


def described(checkpoint: str, model: str, weights: str, averages: str | None = None) -> dict[str, str]:
    """The metadata of a slim file.

    Args:
        checkpoint: checksum of the checkpoint.
        model: digest of the recipe (`Recipe.model_digest`).
        weights: digest of the tensors.
        averages: of the average of a length, the fingerprint of what it was made of.
    """
    of_averages = {} if averages is None else {"averages": averages}
    return {"format": FORMAT, "checkpoint": checkpoint, "model": model, "weights": weights, **of_averages}
