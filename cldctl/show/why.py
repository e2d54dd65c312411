"""The answer of `cldctl why`, on one screen."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from cld_core.run import RunFolder
from cld_core.texts import one_line
from cldctl.hints import command
from cldctl.runs.failing import FirstFailure
from cldctl.runs.why import Why

from .console import out
from .format import age, duration
from .runs import LIVE_CODE
from .tables import attempts, state_text
from .usage import usage_line

# The newest attempts that are shown, so that the answer fits on a screen.
MOST_ATTEMPTS = 4
# And of the last words.
MOST_LINES = 6


def screen(why: Why) -> RenderableType:
    """Everything, the most important first."""
    return Group(*_parts(why))


def _parts(why: Why) -> Iterator[RenderableType]:
    row = why.row
    yield Text.assemble((row.name, "bold"), "  ", state_text(row.state), f"  {why.headline}", overflow="fold")
    if why.waiting is not None and why.waiting.expected is not None:
        yield _fact("begins", f"in {duration(why.waiting.expected - time.time())}, as the scheduler expects")
    if why.attempts:
        yield attempts([{**row, "detail": None} for row in why.attempts[-MOST_ATTEMPTS:]])
        if len(why.attempts) > MOST_ATTEMPTS:
            yield Text(f"{len(why.attempts) - MOST_ATTEMPTS} earlier attempts: cldctl status", style="dim")
    if why.failed is not None:
        yield from _failure(why.failed, RunFolder(row.path))
    if why.excluded:
        yield _fact("avoids", f"nodes {', '.join(why.excluded)}")
    if row.code == "live":
        yield _fact("code", LIVE_CODE)
    for change in why.changed:
        yield _fact("changed", change, "yellow")
    if why.usage is not None and why.usage.used > 0:
        yield _fact("usage", usage_line(why.usage.to_dict()))
    for problem in why.problems:
        yield _fact("problem", problem, "yellow")
    if why.do:
        yield _fact("do", why.do)
    for place, text in enumerate(why.next):
        fact = _fact("next" if place == 0 else "or", command(text, RunFolder(row.path)), "bold" if place == 0 else "")
        # The terminal breaks it, so that it can be copied.
        fact.no_wrap, fact.overflow = True, "ignore"
        yield fact


def _fact(name: str, text: str, style: str = "") -> Text:
    return Text.assemble((f"{name:8}", "dim"), (text, style), overflow="fold")


def _failure(failed: FirstFailure, run: RunFolder) -> Iterator[Text]:
    where = f" on {failed.host}" if failed.host else ""
    when = f", {age(failed.time)}" if failed.time else ""
    reason = f": {one_line(failed.reason, out.width)}" if failed.reason else ""
    if failed.rank is None:
        text = f"attempt {failed.attempt}; the first rank to fail is unknown"
    else:
        text = f"rank {failed.rank}{where} failed first in attempt {failed.attempt}"
    yield _fact("failed", f"{text}{when}{reason}", "red")
    if failed.file is not None:
        yield _fact("", _shown(failed.file, run))
    for line in failed.lines[-MOST_LINES:]:
        # A long line is cut, not folded: the screen is for the last words, `logs --failed` for all of them.
        yield Text(f"  {line}", style="dim", overflow="ellipsis", no_wrap=True)


def _shown(file: Path, run: RunFolder) -> str:
    """A path as it can be opened from here, the shorter one."""
    relative = os.path.relpath(file)
    return min(relative, str(file), key=len) if file.is_relative_to(run.path) else str(file)
