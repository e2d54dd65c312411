"""The classes of labelled data: their names, and how frequent they are. Loads no torch."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cld_core.errors import UsageError, did_you_mean
from cld_core.sanitize import has_control, is_count, one_line

# Labels of prepared images are stored in two bytes.
MOST = 2**16 - 1
LONGEST_NAME = 255
# Any number of its multiples modulo 1 fills [0, 1) evenly.
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_SHOWN = 10


@dataclass(frozen=True)
class Classes:
    """The classes of a data set. A label is the index of one.

    Attributes:
        names: the names of the classes, all different.
        weights: relative frequencies: numbers of training images, or probabilities of toy data.

    Raises:
        ValueError: names or weights are invalid.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MOST or len(self.weights) != len(self.names):
            raise ValueError(
                f"there are {len(self.names)} names of classes and {len(self.weights)} frequencies"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError("two classes have the same name")
        if any(not 1 <= len(name) <= LONGEST_NAME or has_control(name) for name in self.names):
            raise ValueError("the name of a class is not a short text")
        if min(self.weights) < 0 or not 0 < sum(self.weights) < math.inf:
            raise ValueError("the frequencies of classes cannot be those of data")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def none(self) -> int:
        """The label of networks that stands for "no label"."""
        return len(self.names)

    @property
    def shares(self) -> tuple[float, ...]:
        """The probability of each class."""
        total = sum(self.weights)
        return tuple(weight / total for weight in self.weights)

    @property
    def entropy(self) -> float:
        """The entropy of an example's class, in nats."""
        return -sum(share * math.log(share) for share in self.shares if share)

    def index(self, label: Any) -> int:
        """The label that a name or a number stands for; a text is looked up among the names first.

        Raises:
            UsageError: there is no such class; names the classes.
        """
        if not isinstance(label, int | str) or isinstance(label, bool):
            raise UsageError(
                f"a label is a number or the name of a class, not {one_line(repr(label), 80)}: "
                f"{self}. Use one of them, and pass a name as a string: 'true', not True."
            )
        if isinstance(label, str) and label in self.names:
            return self.names.index(label)
        if isinstance(label, int) or is_count(label.removeprefix("-")):
            if 0 <= int(label) < len(self):
                return int(label)
            raise UsageError(f"label {label} is out of range: {self}. Use one of them.")
        guess = did_you_mean(label, self.names)
        raise UsageError(
            f"there is no class {one_line(label, 80)!r}: {self}.{guess or ' Use one of them.'}"
        )

    def each(self, label: Any, n: int) -> list[int]:
        """Labels of ``n`` examples: of one class, or of a sequence of n.

        Raises:
            UsageError: there is no such class, or the number of labels is not ``n``.
        """
        is_sequence = isinstance(label, Iterable) and not isinstance(label, str)
        labels = list(label) if is_sequence else [label] * n
        if len(labels) != n:
            raise UsageError(f"{len(labels)} labels for {n} examples. Give one, or one for each.")
        return list(map(self.index, labels))

    def drawn(self, first: int, last: int) -> list[int]:
        """Labels of the samples ``first <= i < last``; classes have their frequencies.

        The label of sample i depends only on i: it is the class in whose part of [0, 1) the i-th
        multiple of the golden ratio falls.
        """
        ends = list(itertools.accumulate(self.shares))
        return [
            min(bisect_right(ends, (i + 1) * _GOLDEN % 1.0), len(self) - 1)
            for i in range(first, last)
        ]

    def __str__(self) -> str:
        """The range of the labels, and the names of the classes unless they are numbers."""
        numbers = f"the labels are 0 to {len(self) - 1}"
        if self.names == tuple(map(str, range(len(self)))):
            return numbers
        more = ", ..." if len(self) > _SHOWN else ""
        return f"{numbers} ({one_line(', '.join(self.names[:_SHOWN]), 400)}{more})"


def numbered(weights: Sequence[float]) -> Classes:
    """Classes without names of their own."""
    return Classes(tuple(map(str, range(len(weights)))), tuple(weights))
