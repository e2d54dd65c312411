"""Reading whatever can be read of a run: what cannot be is said, and spoils nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from cld_core.texts import one_line

_Part = TypeVar("_Part")


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
            self.problems.append(f"{what}: {one_line(error) or type(error).__name__}")
            return otherwise
