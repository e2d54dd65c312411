"""Selecting runs by state, time, tag, user or group; giving them tags and notes."""

import contextlib
import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cld_core.errors import UsageError, did_you_mean
from cld_core.ownership import require_may_change
from cld_core.run import RunFolder
from cld_core.run.events import Labelled
from cld_core.run.groups import Group
from cld_core.run.state import OVER, STATES
from cld_core.sanitize import has_control, one_line
from cldctl import config

if TYPE_CHECKING:
    from .status import RunStatus

# Runs that ended longer ago are listed only on request.
RECENT_S = 7 * 24 * 3600
_UNITS = {"m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_KEYS: "dict[str, Callable[[RunStatus], Any]]" = {
    "name": lambda row: row.name,
    "created": lambda row: row.created,
    "updated": lambda row: row.last_change,
    "step": lambda row: row.step,
    "loss": lambda row: row.shown_loss,
    "state": lambda row: STATES.index(row.state),
}
ORDERS = tuple(_KEYS)
_TAG = re.compile(r"[A-Za-z0-9._:-]{1,50}")
_LONGEST_NOTE = 500


@dataclass(frozen=True)
class Selection:
    """Conditions for runs to be listed; empty ones hold for all runs.

    Attributes:
        since: seconds since 1970. A run that ended earlier is left out.
        tags: a run must have all of them.
    """

    states: frozenset[str] = frozenset()
    since: float | None = None
    tags: tuple[str, ...] = ()
    user: str | None = None
    group: str | None = None

    @property
    def is_empty(self) -> bool:
        return self == Selection()

    def of(self, rows: "Iterable[RunStatus]") -> "list[RunStatus]":
        return [row for row in rows if self._has(row)]

    def _has(self, row: "RunStatus") -> bool:
        if self.states and row.state not in self.states:
            return False
        if self.since is not None and not is_since(row, self.since):
            return False
        if self.user not in (None, row.user) or self.group not in (None, row.group):
            return False
        return set(self.tags) <= set(row.tags)


def selection(
    states: str | None = None,
    since: str | None = None,
    tags: Sequence[str] = (),
    user: str | None = None,
    group: str | None = None,
) -> Selection:
    """The selection that the options of `cldctl status` describe.

    Raises:
        UsageError: an option has an invalid value.
    """
    check_labels(tags)
    chosen = frozenset() if states is None else frozenset(map(_state, states.split(",")))
    return Selection(chosen, None if since is None else moment(since), tuple(tags), user, group)


def is_since(row: "RunStatus", since: float) -> bool:
    """Whether a run is alive, or has changed after ``since``, seconds since 1970."""
    return row.state not in OVER or row.last_change is None or row.last_change > since


def recent(rows: "Iterable[RunStatus]") -> "list[RunStatus]":
    """The runs that are alive, or ended less than `RECENT_S` seconds ago."""
    since = time.time() - RECENT_S
    return [row for row in rows if is_since(row, since)]


def in_order(
    rows: "Sequence[RunStatus]", order: str, *, reverse: bool = False
) -> "list[RunStatus]":
    """Rows sorted by one of `ORDERS`, ascending; rows without a value come first in any case.

    Raises:
        UsageError: there is no such order.
    """
    if order not in _KEYS:
        guess = did_you_mean(order, ORDERS)
        raise UsageError(f"--sort cannot be '{order}'.{guess} Use one of {', '.join(ORDERS)}.")
    key = _KEYS[order]
    without = [row for row in rows if key(row) is None]
    others = [row for row in rows if key(row) is not None]
    return [*without, *sorted(others, key=key, reverse=reverse)]


def moment(text: str) -> float:
    """A time in the past, seconds since 1970: "7d", "12h" ago, or since "2026-11-01" (local time).

    Raises:
        UsageError: ``text`` is not such a time.
    """
    text = text.strip()
    if match := re.fullmatch(r"([0-9]{1,6})([mhdw])", text):
        return time.time() - int(match[1]) * _UNITS[match[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"--since cannot be '{one_line(text, 40)}'. Use a number and m, h, d or w "
            f"(30m, 12h, 7d, 2w), or a date (2026-11-01, 2026-11-01T18:30)."
        ) from error


def _state(word: str) -> str:
    state = word.strip().upper()
    if state not in STATES:
        guess = did_you_mean(state, STATES)
        raise UsageError(
            f"--state cannot be '{word}'.{guess} Use one or several of {', '.join(STATES)}."
        )
    return state


def check_labels(tags: Sequence[str], note: str | None = None) -> None:
    """Raises UsageError if a run cannot have these tags and this note."""
    for tag in tags:
        if _TAG.fullmatch(tag) is None:
            raise UsageError(
                f"'{tag}' cannot be a tag: use letters, digits, '.', '_', ':' and '-', at most 50."
            )
    if has_control(note or ""):
        raise UsageError("a note is one line without control characters. Leave them out.")
    if len(note or "") > _LONGEST_NOTE:
        raise UsageError(
            f"a note has at most {_LONGEST_NOTE} characters, not {len(note or '')}. Shorten it."
        )


def command(text: str, place: RunFolder | Group) -> str:
    """``cldctl TEXT``, with the ``--runs-dir`` that it needs to find a run or group from here."""
    root = place.root if isinstance(place, Group) else place.path.parent
    if root.resolve() == config.runs_dir().resolve():
        return f"cldctl {text}"
    with contextlib.suppress(ValueError):
        root = root.relative_to(Path.cwd())
    return f"cldctl {text} --runs-dir {shlex.quote(str(root))}"


def label(
    run: RunFolder, note: str | None, tags: Sequence[str] = (), untag: Sequence[str] = ()
) -> None:
    """Give a run a note and tags.

    Args:
        note: replaces the one before; an empty string removes it, and None leaves it.
        tags: are added.
        untag: are removed.

    Raises:
        CldError: the run belongs to another user.
        UsageError: a tag or the note cannot be used, or the run does not have a tag that is to be
            removed.
    """
    check_labels([*tags, *untag], note)
    if both := sorted(set(tags) & set(untag)):
        raise UsageError(f"--tag and --untag both name {', '.join(both)}. Leave one out.")
    require_may_change(run.path, "Nothing was noted")
    history = run.ledger.history()
    if missing := [tag for tag in untag if tag not in history.tags]:
        known = ", ".join(history.tags) or "none"
        raise UsageError(
            f"{run.name} does not have the tag {', '.join(missing)}. Its tags: {known}."
        )
    new = tuple(dict.fromkeys(tag for tag in tags if tag not in history.tags))
    changed = note if (note or None) != history.note else None
    if new or untag or changed is not None:
        run.ledger.append(Labelled(note=changed, add=new, remove=tuple(untag)))
