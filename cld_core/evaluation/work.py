"""The kinds of work that evaluations are made of, in one table. To add one is to add a line, and its metrics to
`request.BY_NAME`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cld_core.model import Model

from . import elbo, features, heldout
from .request import EvalRequest
from .shard_files import Arrays


def _nothing(model: Model, request: EvalRequest) -> None:
    """Nothing has to be looked for."""


def all_rows(request: EvalRequest, rows: Arrays) -> Arrays:
    return rows


def _concatenated(parts: Iterable[Arrays]) -> Arrays:
    kept = list(parts)
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}


@dataclass(frozen=True)
class Work:
    """``compute`` makes rows of a range, each a function of its index alone; ``condense`` says what of them a complete
    shard keeps; ``join`` puts shards together in their order; ``summary`` makes results of that, by metric.

    ``prepare`` is called before the first range, to fail early.
    """

    compute: Callable[[Model, EvalRequest, int, int], Arrays]
    summary: Callable[[Model, EvalRequest, Arrays], dict[str, dict[str, Any]]]
    prepare: Callable[[Model, EvalRequest], None] = _nothing
    condense: Callable[[EvalRequest, Arrays], Arrays] = all_rows
    join: Callable[[Iterable[Arrays]], Arrays] = _concatenated


WORK = {
    "features": Work(
        features.compute,
        lambda model, request, arrays: features.summary(request, arrays),
        features.prepare,
        features.condense,
        features.join,
    ),
    "elbo": Work(elbo.compute, lambda model, request, arrays: {"elbo": elbo.summary(model, request, arrays)}),
    "loss": Work(heldout.compute, lambda model, request, arrays: {"loss": heldout.summary(request, arrays)}),
}
