"""The axes of a sweep: from the command line to combinations of settings."""

import itertools
import math
from collections.abc import Mapping, Sequence

from cld_core.config import describe, override
from cld_core.digests import digest
from cld_core.errors import UsageError, did_you_mean
from cld_core.evaluate.sweeps import Axis, Sweep

SWEEPABLE = ("sampling", "eval", "ema")
# The axis of an evaluation of several checkpoints.
CHECKPOINT = "checkpoint"
# Each is an evaluation with a folder of its own.
MAX_CELLS = 10_000


def parse(
    texts: Sequence[str],
    sections: Sequence[str] = SWEEPABLE,
    otherwise: str = " Submit several runs instead.",
    example: str = "sampling.nfe=20,50",
) -> tuple[Axis, ...]:
    """The axes of ``--sweep KEY=a,b,c`` options.

    Args:
        sections: those of the recipe whose keys can be swept.
        otherwise: what to do about another key.

    Raises:
        UsageError: one is not of this form or has a key of another section, or a key or value is given twice.
    """
    axes: list[Axis] = []
    keys = describe.keys()
    known = [name for name in keys if name.partition(".")[0] in sections]
    for text in texts:
        key, equals, listed = text.partition("=")
        values = tuple(value.strip() for value in listed.split(","))
        if not equals or not key or not all(values):
            raise UsageError(f"--sweep '{text}': write KEY=a,b,c, for example --sweep {example}.")
        if key.split(".")[0] not in sections:
            candidates = [f"{name}.{key}" for name in sections if f"{name}.{key}" in known]
            guess = did_you_mean(key, candidates)
            problem = f"only keys of {', '.join(sections[:-1])} and {sections[-1]} can be swept"
            raise UsageError(f"--sweep '{key}': {problem}.{guess or otherwise}")
        if key not in known:
            raise UsageError(f"--sweep '{key}': there is no such key.{did_you_mean(key, known)}")
        if key in [axis.key for axis in axes]:
            raise UsageError(f"--sweep '{key}' is given twice. Put all its values into one.")
        if len(set(values)) < len(values):
            raise UsageError(f"--sweep '{text}' has a value twice. Remove one.")
        axes.append(Axis(key, values))
    if (cells := math.prod(len(axis.values) for axis in axes)) > MAX_CELLS:
        raise UsageError(f"--sweep: {cells} combinations are more than {MAX_CELLS}. Sweep over fewer values at once.")
    return tuple(axes)


def combinations(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Every choice of one value on each axis; the last axis changes fastest. Without axes, one empty choice."""
    return [
        dict(zip([axis.key for axis in axes], values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def meaning(values: Mapping[str, str]) -> str:
    """A digest of the meaning of values by key: 1e-4 and 0.0001 are the same, and so are axes in another order."""
    return digest(dict(override(f"{key}={value}") for key, value in values.items()))


def refuse_idle_axes(sweep: Sweep) -> None:
    """Refuse an axis along which no evaluation differs.

    Raises:
        UsageError: the key of an axis has no effect on what is evaluated.
    """
    for axis in sweep.axes:
        groups: dict[tuple[str, ...], set[str]] = {}
        for cell in sweep.cells:
            others = tuple(value for key, value in cell.values.items() if key != axis.key)
            groups.setdefault(others, set()).add(cell.evaluation)
        if len(axis.values) > 1 and all(len(evaluations) == 1 for evaluations in groups.values()):
            raise UsageError(f"--sweep '{axis.key}' has no effect on what is evaluated here. Leave it out.")
