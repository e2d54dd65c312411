"""A page as one file, which asks nobody for anything: parts that templates make, under headings."""

import functools
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cld_core.texts import local_time, printable
from cldctl.runs.state import STATES
from cldctl.show.tables import Cell


class Section(NamedTuple):
    """Parts under a heading, in a layout of the style sheet; without parts, it is left out."""

    title: str
    parts: Iterable[Markup]
    layout: str = "grid"


def render(title: str, mark: str, pills: Iterable[tuple[str, str]], sections: Iterable[Section]) -> str:
    """A page as text. Every text is escaped, and loses its control characters.

    Args:
        mark: what made it.
        pills: words beside the title, with their colours.
    """
    found = [Section(name, list(filter(None, parts)), layout) for name, parts, layout in sections]
    page = templates().get_template("page.html")
    return page.render(title=title, mark=mark, pills=pills, sections=found, made=local_time(time.time())) + "\n"


def part(kind: str, **values: Any) -> Markup:
    """A part of a page: what the macro of this name in `parts.html` makes of ``values``."""
    made: Markup = getattr(templates().get_template("parts.html").module, kind)(**values)
    return made


def text(content: str, style: str = "soft") -> Markup:
    """A paragraph; ``style`` is what the style sheet calls it. Empty without content."""
    return part("text", content=content, style=style) if content else Markup()


def table(caption: str, columns: Mapping[str, Sequence[Cell]]) -> Markup:
    """Columns of cells by their headings; the first one names the rows. Empty without a row."""
    rows = list(zip(*columns.values(), strict=True))
    right = [all(re.match(r"-|\d(?!.*:)", str(cell)) for cell in cells) for cells in columns.values()]
    return part("table", caption=caption, headings=columns, rows=rows, right=right) if rows else Markup()


def code(command: str) -> Markup:
    """A command, for the inside of a text."""
    return Markup("<code>{}</code>").format(printable(command))


def colour_of(state: str) -> str:
    """What the style sheet calls the colour of a state, which is that of terminals."""
    return STATES.get(state, "dim").rpartition(" ")[2]


@functools.cache
def templates() -> Environment:
    """The templates of this package; those of HTML escape what they show."""
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
