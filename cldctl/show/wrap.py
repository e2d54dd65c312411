"""Texts that fit: names lose their middle, sentences break between words, and no word breaks inside."""

import re
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from cld_core.texts import printable

ELLIPSIS = "…"
# Where a word that is longer than a line may break: after dashes, slashes and underscores, as names and paths have.
_PIECES = re.compile(r"[^-/_]*[-/_]+|[^-/_]+")
# A word of a command, which is not the last one of a sentence; "." and ".." are folders.
_ARGUMENT = r" (?:(?:\S*/)?\.\.?(?!\S)|\S*[^\s.,;:])"
# What somebody may copy: a command, in backquotes, after a colon, "#" or an indent, ends with its line or its sentence.
_WHOLE = re.compile(rf"`[^`\n]*`\S*|(?<![^:#\s] )(?<!\S)cldctl(?:{_ARGUMENT})*\S*|\S+")
# What begins each line of a paragraph; that of a comment in front of a recipe has a "#".
_INDENT = re.compile(r"\s*(?:# +)?")


def shortened(name: str, width: int) -> str:
    """A name in ``width`` characters, or fewer: more of its end stays than of its start: it tells it from others."""
    if len(name) <= width:
        return name
    last = max(width - 1, 0) * 3 // 5
    return f"{name[: max(width - 1 - last, 0)]}{ELLIPSIS}{name[len(name) - last :]}"


class Wrapped:
    """A text that wraps at spaces, within longer words after dashes and slashes; what is longer still is shortened."""

    def __init__(self, text: str | Text, style: str = "") -> None:
        self._text = Text(printable(text), style) if isinstance(text, str) else text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        text = self._text.plain
        least = max((len(piece) for word in text.split() for piece in _PIECES.findall(word)), default=1)
        most = max(map(len, text.splitlines()), default=1)
        return Measurement(min(least, options.max_width), min(most, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for paragraph in self._text.split("\n"):
            for line in wrapped(paragraph, options.max_width):
                line.no_wrap, line.overflow = True, "ignore"
                yield line


def between_words(text: Text, width: int) -> Text:
    """The text with its lines broken at spaces only, under the indent of each.

    Words, paths and commands that are longer than a line stay whole, so that they can be copied.
    """
    paragraphs = text.split("\n", allow_blank=True)
    return Text("\n").join(line for paragraph in paragraphs for line in _broken(paragraph, width))


def _broken(text: Text, width: int) -> list[Text]:
    match = _INDENT.match(text.plain)
    indent = text[: match.end()] if match is not None else Text()
    lines, line, end = [], indent.copy(), 0
    for piece in _WHOLE.finditer(text.plain, len(indent)):
        begin = end if len(line) > len(indent) else piece.start()
        if len(line) > len(indent) and cell_len(line.plain + text.plain[begin : piece.end()]) > width:
            lines.append(line)
            line, begin = indent.copy(), piece.start()
        end = piece.end()
        line.append_text(text[begin:end])
    return [*lines, line]


def wrapped(text: Text, width: int) -> list[Text]:
    """The lines of one paragraph, each of at most ``width`` characters."""
    lines, line = [], Text(style=text.style)
    for blanks, piece in _pieces(text, width):
        if line and len(line) + len(blanks) + len(piece) > width:
            lines.append(line)
            line = Text(style=text.style)
        elif line:
            line.append_text(blanks)
        line.append_text(piece)
    return [*lines, line]


def _pieces(text: Text, width: int) -> Iterator[tuple[Text, Text]]:
    """What must stay on one line, each with the blanks before it."""
    end = 0
    for word in re.finditer(r"\S+", text.plain):
        blanks = text[end : word.start()]
        spans = [(word.start(), word.end())]
        if len(word[0]) > width:
            spans = [(word.start() + it.start(), word.start() + it.end()) for it in _PIECES.finditer(word[0])]
        for begin, end in spans:
            piece = text[begin:end]
            if len(piece) > width:
                piece = Text(shortened(piece.plain, width), piece.style)
            yield blanks, piece
            blanks = Text()
        end = word.end()
