"""Two consoles (data on stdout, all else on stderr), progress bars, and formats of numbers.

Colours and bars appear on a terminal only. Names, reasons and details come from files of others:
the consoles interpret no markup in them, and no text can steer the terminal.
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
    from cld_core.run.groups import Group
    from cld_core.run.work import Work

# The styles in which states are shown.
STYLES = {
    "RUNNING": "bold green",
    "REQUEUED": "yellow",
    "PENDING": "yellow",
    "FAILED": "bold red",
    "LOST": "bold red",
    "STOPPED": "magenta",
    "CANCELLED": "dim",
    "FINISHED": "green",
}

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(errors="replace")  # A locale without "±" must not end a command.

# Columns of a pipe or a file: rich would fold lines at 80.
_PIPED_WIDTH = 1000
# The width of a bar on a terminal of at least _WIDE columns; it is half as wide on a narrower one.
_BAR = 20
_WIDE = 100


class PlainConsole(Console):
    """A console that removes escape sequences and control characters from all texts.

    If it is ``quiet``, it prints only `failure` and `error`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as the base class does, but break sentences on a terminal between words only.

        Text that may be copied is not broken: words, indented lines, all text that is printed with
        ``no_wrap``, and all text in files.
        """
        if objects and all(isinstance(part, str | Text) for part in objects):
            options["soft_wrap"] = True
            is_indented = str(objects[0]).startswith(" ")
            has_lines = any("\n" in str(part).strip() for part in objects)
            is_sentence = not (is_indented or has_lines or options.get("no_wrap"))
            if self.is_terminal and is_sentence:
                texts = (
                    self.render_str(part) if isinstance(part, str) else part for part in objects
                )
                objects = (_between_words(Text(" ").join(texts), self.width),)
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Measure a string without its control characters, which have no width."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As the base class, without control characters in texts that were not strings.

        Control segments, such as cursor moves, come from rich and stay.
        """
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def failure(self, *objects: Any, **options: Any) -> None:
        """Print why part of a command failed, such as one of several runs; quiet or not."""
        was_quiet = self.quiet
        self.quiet = False
        try:
            self.print(*objects, **options)
        finally:
            self.quiet = was_quiet

    def error(self, text: str) -> None:
        """Print why a command fails, on one line."""
        self.failure(Text("error:", "bold red"), " ".join(text.splitlines()))


def _between_words(text: Text, width: int) -> Text:
    """Break a text into lines of at most ``width`` characters.

    A longer word, or a command in backquotes, is a line of its own.
    """

    def join_words(command: re.Match[str]) -> str:
        return command[0].replace(" ", "\N{NO-BREAK SPACE}")

    lines = textwrap.wrap(
        re.sub("`[^`]*`", join_words, text.plain),
        width,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=False,
        expand_tabs=False,
    )
    broken = []
    for line in text.divide(itertools.accumulate(map(len, lines[:-1]))):
        indent = len(line.plain) - len(line.plain.lstrip())
        broken.append(line[indent : len(line.plain.rstrip())])
    return Text("\n").join(broken)


def _options(stream: TextIO | None) -> dict[str, Any]:
    """The options of rich for a stream: lines are not folded unless it is a terminal.

    ``$FORCE_COLOR`` adds colours to a file or pipe. Rich alone would also take it for a terminal,
    and redraw bars in it.
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
    """A duration such as 42s, 3m10s, 5h02m or 2d04h; a dash for None."""
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
    """How long ago a time (seconds since 1970) was; a dash for None."""
    return "-" if since is None else f"{duration(time.time() - since)} ago"


def number(value: float | None, digits: int = 4) -> str:
    """A number with ``digits`` significant digits; a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def hours(value: float) -> str:
    """Hours in at least three significant digits, such as 0.0123, 1.53 or 1,234."""
    return f"{value:,.0f}" if value >= 100 else number(value, 3)


def count(value: int | None) -> str:
    """A whole number with thousands separated; a dash for None."""
    return "-" if value is None else f"{value:,}"


def short(value: int | None) -> str:
    """A whole number in four digits, such as 950, 12.5k or 1.25M; a dash for None."""
    if value is None:
        return "-"
    if value >= 1_000_000:
        return f"{value / 1_000_000:.4g}M"
    if value >= 1_000:
        return f"{value / 1_000:.4g}k"
    return str(value)


def keys_differ(number: int) -> str:
    """How many keys of two recipes differ, as the beginning of a sentence."""
    if number == 0:
        return "No key differs"
    return "1 key differs" if number == 1 else f"{number} keys differ"


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def shortened(name: str, width: int) -> str:
    """A name in at most ``width`` characters; more of its end stays, which differs between runs."""
    if len(name) <= width:
        return name
    last = max(width - 1, 0) * 3 // 5
    return f"{name[: max(width - 1 - last, 0)]}…{name[len(name) - last :]}"


def state_text(state: str) -> Text:
    """The word for a state, in its colour."""
    return Text(state, style=STYLES.get(state, ""))


def strong(*parts: str) -> Text:
    """A text whose second, fourth, ... part is bold."""
    styles = itertools.cycle(("", "bold"))
    return Text.assemble(*zip(parts, styles, strict=False))


def say_next(place: "RunFolder | Group", *texts: str) -> None:
    """Print commands to type next, a line each.

    Args:
        place: the run or group that they name.
        texts: the commands, without "cldctl ".
    """
    from cldctl.runs.selection import command

    err.print("next:\n" + "\n".join(f"  {command(text, place)}" for text in texts))


def say_incomplete(works: "Iterable[Work]") -> int:
    """Print which works are not complete, and where to see why; return the exit code, 1 if one is
    not."""
    from cldctl.runs.selection import command

    code = 0
    for work in works:
        name = work.name
        logs = str(work.folder / "logs")
        if work.run is not None:
            name = f"{work.called} {work.name} of {work.run.name}"
            logs = command(f"logs {work.run.name} --eval {work.name}", work.run)
        err.failure(f"{name} is not complete; to go on, run the same `{work.command}` again. See")
        err.failure(f"  {logs}")
        code = 1
    return code


class _Head(ProgressColumn):
    def render(self, task: Task) -> Text:
        head: Text = task.fields["head"]
        return head


class Bars(Progress):
    """A context that shows progress bars on stderr.

    Each task has the fields ``head``, a text before the bar, which may be folded, and ``detail``, a
    text behind it. In a pipe or file, and in quiet mode, it is disabled: callers print lines
    instead.
    """

    def __init__(self, *, is_transient: bool) -> None:
        bar = BarColumn(bar_width=_BAR if err.width >= _WIDE else _BAR // 2)
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            _Head(),
            bar,
            TextColumn("{task.fields[detail]}", markup=False),
        ]
        # With --follow, the text behind the bar contains the elapsed time.
        if is_transient:
            columns.append(TimeElapsedColumn())
        is_hidden = err.quiet or not err.is_terminal
        super().__init__(*columns, console=err, transient=is_transient, disable=is_hidden)

    def stop(self) -> None:
        # Some versions of rich print an empty line at the end of a disabled bar.
        if not self.disable:
            super().stop()


class Working(Bars):
    """A context that shows what a command does. On a terminal it disappears at the end.

    Args:
        what: the first phase, such as "loading mine".
        announced: also print the first phase in a pipe. Leave it out for a command that may still
            fail with a one-line error.
    """

    def __init__(self, what: str, *, announced: bool = False) -> None:
        super().__init__(is_transient=True)
        self._what = "" if announced else one_line(what)
        self._task = self.add_task("", total=None, head=Text(self._what), detail="")
        self.phase(what)

    def phase(self, what: str) -> None:
        """Begin another phase, whose progress is unknown until `at` is called."""
        what = one_line(what)
        if what == self._what:
            return
        self._what = what
        self.reset(self._task, total=None, head=Text(what), detail="")
        if self.disable:
            err.print(what, style="dim")

    def at(self, done: int, total: int | None, unit: str = "") -> None:
        """Show how much of the phase is done; ``total`` is None if it is unknown."""
        self.update(self._task, completed=done, total=total)
        whole = "" if total is None else f"/{total:,}"
        detail = one_line(f"{done:,}{whole} {unit}")
        left_s = self.tasks[0].time_remaining
        if left_s is not None:
            detail += f"  {duration(left_s)} left"
        self.update(self._task, detail=detail)


class _Log(logging.Handler):
    """Prints log records on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            err.print(f"warning: {record.getMessage()}", style="yellow")
        else:
            err.print(record.getMessage(), style="dim")


_LOG = _Log()


def verbose(is_on: bool) -> None:
    """Show the warnings of `cld_core`.

    Args:
        is_on: also show the programs that are called, and how long they take (`cldctl -v`).
    """
    logger = logging.getLogger("cldctl")
    logger.setLevel(logging.DEBUG if is_on else logging.NOTSET)
    logger.handlers = [_LOG] if is_on else []
    logging.getLogger("cld_core").handlers = [_LOG]
