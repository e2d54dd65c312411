"""Two consoles: data goes to stdout, everything else to stderr. Colours and bars only on a terminal.

Names, reasons and details come from files and commands of others. The consoles show them as they are: markup is off
unless a call asks for it, and nothing in a text steers the terminal.
"""

import io
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from cld_core.texts import printable

from .wrap import between_words

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(errors="replace")  # A locale without "±" must not end a command.

_PIPED_WIDTH = 1000

# Cells of a progress bar, whatever the width of the terminal.
BAR = 20


class PlainConsole(Console):
    """Shows texts without escape sequences and control characters, wherever in a table or bar they are.

    ``$FORCE_COLOR`` gives colours to a file or pipe. It makes no terminal of it, which could be redrawn: rich alone
    would take it for one.
    """

    def __init__(self, **options: Any) -> None:
        self._as_terminal: bool | None = options.get("force_terminal")
        if os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR"):
            options = {"color_system": "standard", **options}
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    @property
    def is_terminal(self) -> bool:
        """Whether what is written can be redrawn."""
        if self._as_terminal is not None:
            return self._as_terminal
        try:
            return bool(self.file.isatty())
        except (AttributeError, ValueError):  # ValueError: it is closed
            return False

    def print(self, *objects: Any, **how: Any) -> None:
        """As the base class, but texts break between words on a terminal, and nowhere else.

        ``no_wrap``: not even there, as for what files contain.
        """
        if objects and all(isinstance(it, str | Text) for it in objects) and not how.keys() & {"width", "overflow"}:
            how["soft_wrap"] = True
            if self.is_terminal and not how.get("no_wrap"):
                markup = how.get("markup")
                texts = (self.render_str(it, markup=markup) if isinstance(it, str) else it for it in objects)
                objects = (between_words(Text(how.pop("sep", " ")).join(texts), self.width),)
        super().print(*objects, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        """As the base class, from the text that is left: here, so that it is measured without what is cut out."""
        return super().render_str(printable(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As the base class; for texts that were not strings. Control segments are rich's own, such as cursor moves."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class Messages(PlainConsole):
    """What is said beside the data. ``quiet`` leaves out all but `failure` and `error`."""

    def failure(self, *objects: Any, **how: Any) -> None:
        """Print what went wrong with a run, an evaluation or another thing that was asked for; quiet or not."""
        before, self.quiet = self.quiet, False
        try:
            super().print(*objects, **{"markup": False, "soft_wrap": True, **how})
        finally:
            self.quiet = before

    def error(self, text: str) -> None:
        """Say why a command fails, on one line."""
        self.failure(Text("error:", "bold red"), " ".join(text.splitlines()))


def _width(stream: TextIO | None) -> int | None:
    """Output that does not go to a terminal is complete, however wide that is."""
    return None if (stream and stream.isatty()) or "COLUMNS" in os.environ else _PIPED_WIDTH


out = PlainConsole(width=_width(sys.stdout))
err = Messages(stderr=True, width=_width(sys.stderr))


def strong(*parts: str) -> Text:
    """A text whose second, fourth, ... part is bold."""
    return Text.assemble(*((part, "bold" if index % 2 else "") for index, part in enumerate(parts)))


def shows_bars() -> bool:
    """Whether bars and spinners are shown: on a terminal, unless they are hidden."""
    return err.is_terminal and not err.quiet


def shows_phases() -> bool:
    """Whether each phase of what takes a while gets a line: where nobody sees a bar, unless they are hidden."""
    return not err.is_terminal and not err.quiet
