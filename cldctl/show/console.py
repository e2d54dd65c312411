"""Two consoles: data goes to stdout, everything else to stderr. Colours and bars only on a terminal.

Names, reasons and details come from files and commands of others. The consoles show them as they are: markup is off
unless a call asks for it, and nothing in a text steers the terminal.
"""

import contextlib
import io
import itertools
import logging
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from cld_core.sanitize import printable

if TYPE_CHECKING:
    from cld_core.run import RunFolder

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(errors="replace")  # A locale without "±" must not end a command.

# Whatever goes to a pipe or a file is whole: rich would fold it at 80 columns.
_PIPED_WIDTH = 1000


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
        """As the base class, but a sentence breaks between words on a terminal, and nowhere else.

        What may be copied stays whole: words, indented lines, and with ``no_wrap`` everything, as in files.
        """
        if objects and all(isinstance(it, str | Text) for it in objects):
            how["soft_wrap"] = True
            is_sentence = not str(objects[0]).startswith(" ") and not any("\n" in str(it).strip() for it in objects)
            if self.is_terminal and is_sentence and not how.get("no_wrap"):
                markup = how.get("markup")
                texts = (self.render_str(it, markup=markup) if isinstance(it, str) else it for it in objects)
                objects = (_between_words(Text(" ").join(texts), self.width),)
        super().print(*objects, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        """As the base class, from the text that is left: here, so that it is measured without what is cut out."""
        return super().render_str(printable(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As the base class; for texts that were not strings. Control segments are rich's own, such as cursor moves."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def _between_words(text: Text, width: int) -> Text:
    """A text in lines of at most so many characters, or of one longer word, or of a command in backquotes."""
    whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\N{NO-BREAK SPACE}"), text.plain)
    lines = textwrap.wrap(
        whole, width, break_long_words=False, break_on_hyphens=False, drop_whitespace=False, expand_tabs=False
    )
    broken = text.divide(itertools.accumulate(map(len, lines[:-1])))
    return Text("\n").join(
        line[len(line.plain) - len(line.plain.lstrip()) : len(line.plain.rstrip())] for line in broken
    )


class Messages(PlainConsole):
    """What is said beside the data. ``quiet`` leaves out all but `failure` and `error`."""

    def failure(self, *objects: Any, **how: Any) -> None:
        """Print what went wrong with a run, an evaluation or another thing that was asked for; quiet or not."""
        before, self.quiet = self.quiet, False
        try:
            self.print(*objects, **{"markup": False, **how})
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


def say_next(place: "RunFolder", *texts: str) -> None:
    """Say what to type next, a line each, without "cldctl ": commands about a run, or what lies beside it."""
    from cldctl.hints import command

    err.print("next:\n" + "\n".join(f"  {command(text, place)}" for text in texts))


def shows_bars() -> bool:
    """Whether bars and spinners are shown: on a terminal, unless they are hidden."""
    return err.is_terminal and not err.quiet


def shows_phases() -> bool:
    """Whether each phase of what takes a while gets a line: where nobody sees a bar, unless they are hidden."""
    return not err.is_terminal and not err.quiet


class _Log(logging.Handler):
    """Writes what is logged to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        err.print(f"{'warning: ' * is_warning}{record.getMessage()}", style="yellow" if is_warning else "dim")


_LOG = _Log()


def verbose(is_on: bool) -> None:
    """What `cldctl -v` says, or no longer: the programs that are called, and how long they take."""
    logger = logging.getLogger("cldctl")
    logger.setLevel(logging.DEBUG if is_on else logging.NOTSET)
    logger.handlers = [_LOG] if is_on else []


@contextlib.contextmanager
def warnings() -> Iterator[None]:
    """A context in which stderr shows what `cld_core` warns of."""
    logger = logging.getLogger("cld_core")
    logger.addHandler(_LOG)
    try:
        yield
    finally:
        logger.removeHandler(_LOG)
