"""The evaluations in a run folder, and their reports while they are current. Loads no torch."""

import contextlib
import math
from pathlib import Path
from typing import Any

from cld_core.checkpoint.files import weights_digest
from cld_core.codec import real, whole
from cld_core.files import read_object
from cld_core.run import RunFolder

from . import registry

# Numbers of a section that are no results, but shown beside them.
_NUMBERS = frozenset({"nfe_mean", "true_entropy"})


def current_report(folder: Path) -> dict[str, Any] | None:
    """The report in an evaluation's folder, unless the run has another checkpoint of that step by now.

    A checkpoint that was cleared away leaves its numbers valid.
    """
    report = _typed(read_object(folder / "report.json"))
    if "checkpoint_step" not in report:
        return None
    checksum = None
    with contextlib.suppress(OSError):
        checksum = weights_digest(RunFolder(folder.parent.parent), report["checkpoint_step"])
    return report if checksum in (None, report.get("checkpoint")) else None


def _typed(report: dict[str, Any]) -> dict[str, Any]:
    """A report without the sections, and the numbers of sections, that have another type than they should."""
    names = [metric.name for metric in registry.metrics()]
    typed = {name: value for name, value in report.items() if name not in names or isinstance(value, dict)}
    for name in names:
        if name in typed:
            numbers = _NUMBERS.union(
                *((quantity.field, quantity.stderr) for quantity in registry.metric(name).quantities)
            )
            typed[name] = {key: value for key, value in typed[name].items() if key not in numbers or _is_number(value)}
    kept = {"checkpoint_step": whole, "created": real}
    return {name: value for name, value in typed.items() if name not in kept or kept[name](value) is not None}


def _is_number(value: Any) -> bool:
    """Whether it is None, a number that fits a float, or one that is not finite: that is a result, too."""
    return value is None or real(value) is not None or (isinstance(value, float) and not math.isfinite(value))
