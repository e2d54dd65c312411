"""Pieces of Markdown documents whose texts come from anywhere: names, notes and reasons are text, never markup."""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from cld_core.texts import one_line

# What begins emphasis, code, links, pictures, HTML, entities, formulas, mentions or a cell within a line.
_SPECIAL = re.compile(r"[\\`*_~\[\]<>|&!$@#]")
# What GitHub and others take for links without any markup.
_LINK = re.compile(r"(?i)(?<=[a-z])(?=://)|(?<=www)(?=\.)")


def escaped(text: object, most: int = 200) -> str:
    """A text for the inside of a line, at most ``most`` characters of it, that is shown as it is.

    At the beginning of a line, it might begin a list.
    """
    line = _SPECIAL.sub(lambda found: f"\\{found[0]}", one_line(text, most))
    return _LINK.sub(lambda _: "\\", line)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; the cells are escaped."""
    lines = [headings, ["--"] * len(headings), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def picture(what: str, file: str) -> str:
    """A picture in a file beside the document."""
    return f"![{escaped(what)}]({quote(file)})"
