"""Reading whatever can be read of a run: what cannot be is said, and spoils nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from cld_core.errors import CldError
from cld_core.texts import one_line

_Part = TypeVar("_Part")


def said(error: Exception) -> str:
    """What an error says to people: one of cldctl's own in its words, any other on one line."""
    return str(error) if isinstance(error, CldError) else _in_a_line(error)


@dataclass
class Trial:
    """Attempts to read parts of a run.

    Attributes:
        problems: what could not be read, and why, a line each.
    """

    problems: list[str] = field(default_factory=list)

    def of(self, what: str, make: Callable[[], _Part], otherwise: _Part) -> _Part:
        """A part of a run; ``otherwise`` if it cannot be made, which is noted under the name ``what``."""
        try:
            return make()
        except Exception as error:
            self.problems.append(f"{what}: {_in_a_line(error)}")
            return otherwise


def _in_a_line(error: Exception) -> str:
    return one_line(error) or type(error).__name__
