"""Texts that fit into so many columns of a terminal; some characters take two."""

from rich.cells import cell_len, chop_cells, set_cell_size

from cld_core.texts import one_line
from cldctl.show.format import shortened

ELLIPSIS = "…"

# Nobody has a wider terminal.
_WIDEST = 1000


def cut(text: object, width: int) -> str:
    """One line of at most ``width`` columns, of anybody's text; what does not fit is cut at the end."""
    return _shortened(one_line(text, _WIDEST), width)


def cut_in_the_middle(name: str, width: int) -> str:
    """A name of at most ``width`` columns, as `status` shortens it."""
    line = one_line(name, _WIDEST)
    if cell_len(line) <= width:
        return line
    # Characters that take two columns: fewer of them fit.
    fits = (text for size in range(width, 0, -1) if cell_len(text := shortened(line, size)) <= width)
    return next(fits, "")


def left(text: str, width: int) -> str:
    """Exactly ``width`` columns of a line, filled at the end."""
    return set_cell_size(_shortened(text, width), width)


def right(text: str, width: int) -> str:
    """Exactly ``width`` columns of a line, filled at the beginning."""
    line = _shortened(text, width)
    return " " * (width - cell_len(line)) + line


def wrapped(text: object, width: int, most: int) -> list[str]:
    """At most ``most`` lines, broken between words where there are any; the last one says if something is missing."""
    lines: list[str] = []
    rest = one_line(text, _WIDEST)
    while cell_len(rest) > width > 0:
        if len(lines) + 1 == most:
            return [*lines, cut(rest, width)]
        head = _begin(rest, width)
        # A word that ends with the line is whole.
        end = len(head) if rest[len(head)] == " " else head.rfind(" ")
        head = head[:end] if end > 0 else head
        lines.append(head.rstrip())
        rest = rest[len(head) :].lstrip()
    return [*lines, rest] if rest else lines


def _shortened(line: str, width: int) -> str:
    if cell_len(line) <= width:
        return line
    return _begin(line, width - 1) + ELLIPSIS if width > 0 else ""


def _begin(text: str, width: int) -> str:
    return chop_cells(text, width)[0] if width > 0 and text else ""
