"""A table of texts, as the template shows it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells under headings; the first cell of a row is its heading.

    Attributes:
        caption: what it shows, for people and for screen readers.
        right: headings of the columns of numbers.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[str] = frozenset()

    @property
    def aligned(self) -> list[bool]:
        """Whether each column is one of numbers."""
        return [heading in self.right for heading in self.headings]
