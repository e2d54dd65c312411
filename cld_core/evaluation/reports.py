"""The evaluations in a run folder, and their reports while they are current. Loads no torch."""

from pathlib import Path
from typing import Any

from cld_core.checkpoint.verify import sidecar_of
from cld_core.run import RunFolder
from cld_core.small_files import read_json


def checkpoint_checksum(run: RunFolder, step: int) -> str | None:
    """The checksum of the checkpoint that a run has of a step; None if it has none."""
    sidecar = sidecar_of(run, step)
    return None if sidecar is None else sidecar.sha256


def current_report(folder: Path) -> dict[str, Any] | None:
    """The report in an evaluation's folder, unless the run has another checkpoint of that step by now.

    A checkpoint that was cleared away leaves its numbers valid.
    """
    report = read_json(folder / "report.json")
    if not isinstance(report, dict) or "checkpoint_step" not in report:
        return None
    checksum = checkpoint_checksum(RunFolder(folder.parent.parent), report["checkpoint_step"])
    return report if checksum in (None, report.get("checkpoint")) else None
