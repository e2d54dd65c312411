"""What computes rows of a kind."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from cld_core.data.source import labelled
from cld_core.evaluate.request import EvalRequest
from cld_core.guidance import Conditional
from cld_core.model import Model
from cld_core.score import Score
from cld_core.shards.files import Arrays


def given_labels(score: Score, model: Model, seed: int, first: int, last: int) -> Score | Conditional:
    """The score of a model given the labels of the test points ``first <= i < last``, if it has classes."""
    if model.classes is None:
        return score
    return Conditional(score, labelled(model.source).test_labels(seed, first, last).to(model.device))


class RowComputer(ABC):
    """Computes rows of one kind for a request, and puts them together.

    Attributes:
        keeps_rows: whether `condense` keeps all rows, rather than a summary of them.
    """

    keeps_rows: ClassVar[bool] = True

    def __init__(self, model: Model, request: EvalRequest) -> None:
        self.model, self.request = model, request

    def prepare(self) -> None:
        """Fail before the first row if something that is needed is gone.

        Raises:
            UsageError: something is gone or has changed.
        """
        return

    @abstractmethod
    def compute(self, first: int, last: int) -> Arrays:
        """The rows ``first <= i < last``, arrays (last - first, ...); each row is a function of i, not of the range."""

    def review(self, rows: Arrays) -> None:
        """Look at rows that are saved, each once, before further ones are computed.

        Raises:
            CldError: they make the others pointless.
        """
        return

    def condense(self, rows: Arrays) -> Arrays:
        """What a complete shard keeps of its rows."""
        return rows

    @staticmethod
    def join(parts: Iterable[Arrays]) -> Arrays:
        """What the shards kept, together, in their order."""
        kept = list(parts)
        return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
