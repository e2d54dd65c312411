"""Two consoles: data goes to stdout, everything else to stderr, with bars; and numbers as people
read them.

Colours and bars are on a terminal only.

Names, reasons and details come from files and commands of others. The consoles show them as they
are: there is no markup, and nothing in a text steers the terminal.
"""

import io
import itertools
import logging
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segment
from rich.text import Text

from cld_core.sanitize import one_line, printable

if TYPE_CHECKING:
    from cld_core.run import RunFolder

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(errors="replace")  # A locale without "±" must not end a command.

# Whatever goes to a pipe or a file is whole: rich would fold it at 80 columns.
_PIPED_WIDTH = 1000
# From so many columns on there is room for a whole bar.
_WIDE, _BAR = 100, 20


class PlainConsole(Console):
    """Shows texts without escape sequences and control characters, wherever in a table or bar they
    are.

    If it is ``quiet``, all but `failure` and `error` is left out.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **how: Any) -> None:
        """As the base class, but a sentence breaks between words on a terminal, and nowhere else.

        What may be copied stays whole: words, indented lines, and with ``no_wrap`` everything, as
        in files.
        """
        if objects and all(isinstance(it, str | Text) for it in objects):
            how["soft_wrap"] = True
            is_sentence = not str(objects[0]).startswith(" ") and not any(
                "\n" in str(it).strip() for it in objects
            )
            if self.is_terminal and is_sentence and not how.get("no_wrap"):
                texts = (self.render_str(it) if isinstance(it, str) else it for it in objects)
                objects = (_between_words(Text(" ").join(texts), self.width),)
        super().print(*objects, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        """As the base class, from the text that is left: here, so that it is measured without what
        is cut out."""
        return super().render_str(printable(text), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As the base class; for texts that were not strings. Control segments are rich's own, such
        as cursor moves."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def failure(self, *objects: Any, **how: Any) -> None:
        """Print what went wrong with a run, an evaluation or another thing that was asked for;
        quiet or not."""
        before, self.quiet = self.quiet, False
        try:
            self.print(*objects, **how)
        finally:
            self.quiet = before

    def error(self, text: str) -> None:
        """Say why a command fails, on one line."""
        self.failure(Text("error:", "bold red"), " ".join(text.splitlines()))


def _between_words(text: Text, width: int) -> Text:
    """A text in lines of at most so many characters, or of one longer word, or of a command in
    backquotes."""
    whole = re.sub(
        "`[^`]*`", lambda command: command[0].replace(" ", "\N{NO-BREAK SPACE}"), text.plain
    )
    lines = textwrap.wrap(
        whole,
        width,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=False,
        expand_tabs=False,
    )
    broken = text.divide(itertools.accumulate(map(len, lines[:-1])))
    return Text("\n").join(
        line[len(line.plain) - len(line.plain.lstrip()) : len(line.plain.rstrip())]
        for line in broken
    )


def _options(stream: TextIO | None) -> dict[str, Any]:
    """How rich shows what goes to a stream: without a terminal it is complete, however wide that
    is.

    ``$FORCE_COLOR`` gives colours to a file or pipe. It makes no terminal of it, which could be
    redrawn: rich alone would take it for one.
    """
    is_terminal = bool(stream and stream.isatty())
    is_coloured = os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR")
    return {
        "force_terminal": is_terminal,
        "color_system": "standard" if is_coloured else "auto",
        "width": None if is_terminal or "COLUMNS" in os.environ else _PIPED_WIDTH,
    }


out = PlainConsole(**_options(sys.stdout))
err = PlainConsole(stderr=True, **_options(sys.stderr))


def duration(seconds: float | None) -> str:
    """For example 42s, 3m10s, 5h02m, 2d04h; a dash for None."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 24 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def age(since: float | None) -> str:
    """How long ago a time was, seconds since 1970."""
    return "-" if since is None else f"{duration(time.time() - since)} ago"


def number(value: float | None, digits: int = 4) -> str:
    """A number with ``digits`` significant digits; a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def count(value: int | None) -> str:
    """A whole number with thousands separated; a dash for None."""
    return "-" if value is None else f"{value:,}"


def short(value: int | None) -> str:
    """A whole number with four digits, for example 950, 12k, 12.5k, 1.25M; a dash for None."""
    if value is None:
        return "-"
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return str(value)


def keys_differ(number: int) -> str:
    """How many keys of two recipes differ, as the beginning of a sentence."""
    return (
        "No key differs"
        if number == 0
        else "1 key differs"
        if number == 1
        else f"{number} keys differ"
    )


def listed(names: Sequence[str], most: int = 8) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def shortened(name: str, width: int) -> str:
    """A name in ``width`` characters, or fewer: more of its end stays than of its start: it tells
    it from others."""
    if len(name) <= width:
        return name
    last = max(width - 1, 0) * 3 // 5
    return f"{name[: max(width - 1 - last, 0)]}…{name[len(name) - last :]}"


def strong(*parts: str) -> Text:
    """A text whose second, fourth, ... part is bold."""
    return Text.assemble(*((part, "bold" if index % 2 else "") for index, part in enumerate(parts)))


def say_next(place: "RunFolder", *texts: str) -> None:
    """Say what to type next, a line each, without "cldctl ": commands about a run, or what lies
    beside it."""
    from cldctl.runs.selection import command

    err.print("next:\n" + "\n".join(f"  {command(text, place)}" for text in texts))


class _Head(ProgressColumn):
    def render(self, task: Task) -> Text:
        head: Text = task.fields["head"]
        return head


class Bars(Progress):
    """A context in which bars are on stderr: with the fields ``head``, a text that may be folded,
    and ``known``.

    They are on a terminal, unless they are hidden. Elsewhere it is disabled, and whoever shows them
    says a line.
    """

    def __init__(self, *, is_transient: bool) -> None:
        columns = (
            SpinnerColumn(),
            _Head(),
            BarColumn(bar_width=_BAR if err.width >= _WIDE else _BAR // 2),
            TextColumn("{task.fields[known]}", markup=False),
        )
        # What somebody follows says its own times.
        times = [TimeElapsedColumn()] if is_transient else []
        is_hidden = err.quiet or not err.is_terminal
        super().__init__(*columns, *times, console=err, transient=is_transient, disable=is_hidden)

    def stop(self) -> None:
        if (
            not self.disable
        ):  # Some versions of rich end with an empty line where they have shown nothing.
            super().stop()


class Working(Bars):
    """A context in which a command says what it does. On a terminal, nothing of it stays there.

    Args:
        what: the first phase, such as "loading mine".
        announced: print the first phase in a pipe, too. Not for a command that may still fail with
            a one-line error.
    """

    def __init__(self, what: str, *, announced: bool = False) -> None:
        super().__init__(is_transient=True)
        self._what = "" if announced else one_line(what)
        self._task = self.add_task("", total=None, head=Text(self._what), known="")
        self.phase(what)

    def phase(self, what: str) -> None:
        """Begin to do something else, of which nobody knows yet how far it is."""
        before, self._what = self._what, one_line(what)
        if before != self._what:
            self.reset(self._task, total=None, head=Text(self._what), known="")
            if self.disable:
                err.print(self._what, style="dim")

    def at(self, done: int, total: int | None, unit: str = "") -> None:
        """Show how much of the phase is done: a count, if nobody knows of how much."""
        self.update(self._task, completed=done, total=total)
        left, of = self.tasks[0].time_remaining, "" if total is None else f"/{total:,}"
        known = one_line(f"{done:,}{of} {unit}") + (
            "" if left is None else f"  {duration(left)} left"
        )
        self.update(self._task, known=known)


class _Log(logging.Handler):
    """Writes what is logged to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        is_warning = record.levelno >= logging.WARNING
        err.print(
            f"{'warning: ' * is_warning}{record.getMessage()}",
            style="yellow" if is_warning else "dim",
        )


_LOG = _Log()


def verbose(is_on: bool) -> None:
    """Show what `cld_core` warns of; if on, also the programs that are called, and how long they
    take (`cldctl -v`)."""
    logger = logging.getLogger("cldctl")
    logger.setLevel(logging.DEBUG if is_on else logging.NOTSET)
    logger.handlers = [_LOG] if is_on else []
    logging.getLogger("cld_core").handlers = [_LOG]
