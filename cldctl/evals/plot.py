"""The picture of a sweep: each result against the last axis, a line for each choice on the others."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cld_core.evaluation import registry
from cld_core.evaluation.sweeps import Sweep
from cld_core.run.atomic import replacing

# Ratio of the largest to the smallest value from which an axis is logarithmic.
_LOG_FROM = 5.0


def plot(path: Path, sweep: Sweep, table: Sequence[Mapping[str, Any]], keys: Sequence[str], title: str) -> None:
    """Draw the results ``keys`` of a complete sweep, from its rows (`table.rows`), as PNG."""
    from matplotlib.figure import Figure

    along = sweep.axes[-1]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in table:
        label = ", ".join(f"{axis.key.split('.')[-1]} {row[axis.key]}" for axis in sweep.axes[:-1])
        lines.setdefault(label, []).append(row)
    figure = Figure(figsize=(5.5 * max(1, len(keys)), 4.2), layout="constrained")
    for index, key in enumerate(keys):
        axes = figure.add_subplot(1, len(keys), index + 1)
        positions = _positions(along.values)
        for place, (label, cells) in enumerate(lines.items()):
            known = [cell for cell in cells if cell[key] is not None]
            errors = [cell[f"{key}_stderr"] or 0.0 for cell in known]
            x = [positions[cell[along.key]] for cell in known]
            if known:
                values = [cell[key] for cell in known]
                axes.errorbar(x, values, errors, color=f"C{place}", marker="o", capsize=3, label=label)
        _scale(axes, along.values, positions)
        _scale_results(axes, [row[key] for row in table if row[key] is not None])
        axes.set_xlabel(along.key)
        axes.set_ylabel(registry.quantity(key).label)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()
    figure.suptitle(title)
    with replacing(path) as file:
        figure.savefig(file, dpi=120, format="png")


def _positions(values: Sequence[str]) -> dict[str, float]:
    """The position of each value on the axis: the value itself if all are numbers, otherwise its index."""
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return {value: float(index) for index, value in enumerate(values)}


def _scale_results(axes: Any, values: Sequence[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) >= _LOG_FROM * min(finite):
        axes.set_yscale("log")


def _scale(axes: Any, values: Sequence[str], positions: Mapping[str, float]) -> None:
    if positions[values[0]] > 0 and max(positions.values()) >= _LOG_FROM * min(positions.values()) > 0:
        axes.set_xscale("log")
    axes.set_xticks([positions[value] for value in values], labels=list(values))
    axes.minorticks_off()
